"""JSON files from strangers: a byte order mark is read past, anything damaged is one line that names the file."""

import codecs
import json

import learning
import pytest
from builders import checkpoint, peft_folder
from hypothesis import given
from hypothesis import strategies as st

import aligner_probe as ap
from aligner_probe.checkpoints import native
from aligner_probe.errors import CheckpointError
from aligner_probe.files import read_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(content=JSON, mark=st.booleans(), ascii_only=st.booleans())
def test_what_is_written_is_read_with_and_without_a_mark(tmp_path_factory, content, mark, ascii_only):
    file = tmp_path_factory.mktemp("json") / "x.json"
    text = json.dumps(content, ensure_ascii=ascii_only)
    file.write_bytes(codecs.BOM_UTF8 * mark + text.encode("utf-8", "surrogatepass"))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        with pytest.raises(CheckpointError, match="no UTF-8"):
            read_json(file)
        return
    assert read_json(file) == content


DAMAGED = {
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "UTF-16"),
    "UTF-16 without a mark": ('{"a": 1}'.encode("utf-16-le"), "UTF-16|no JSON"),
    "UTF-32": ('{"a": 1}'.encode("utf-32"), "UTF-16 or UTF-32"),
    "Latin-1": ('{"a": "é"}'.encode("latin-1"), "no UTF-8 .*0xe9"),
    "cut short": (b'{"a": [1,', "no JSON"),
    "empty": (b"", "no JSON"),
    "nested": (b"[" * 100_000, "no JSON"),
    "digits": (b"9" * 10_000, "no JSON"),
    "twice": (b'{"r": 4, "r": 8}', "'r' stands twice"),
    "twice inside": (b'[{"x": {"r": 4, "r": 8}}]', "'r' stands twice"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, what):
    content, expected = DAMAGED[what]
    file = tmp_path / "x.json"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_json(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_file_a_folder_and_a_large_file_are_one_line(tmp_path):
    for file in (tmp_path / "no.json", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_json(file)
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    with pytest.raises(CheckpointError, match="larger than 8 bytes"):
        read_json(tmp_path / "x.json", max_bytes=8)


def _with_mark(file):
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())


def test_a_peft_folder_with_a_mark_is_read(tmp_path):
    made = checkpoint(method="llama_adapter", gates=checkpoint().gates[:, :1])
    folder = peft_folder(made, tmp_path / "peft")
    _with_mark(folder / native.CONFIG)
    assert ap.load_checkpoint(folder).n_tokens == made.n_tokens


def test_an_own_folder_with_marks_is_read(tmp_path):
    model = learning.model()
    folder = ap.save_adapter(ap.LoRA(model, r=2), tmp_path / "own")
    for name in (native.CONFIG, native.PROVENANCE):
        _with_mark(folder / name)
    assert ap.load_adapter(folder, model).config.r == 2


@pytest.mark.parametrize("name", [native.CONFIG, native.PROVENANCE])
def test_an_own_folder_with_a_damaged_file_is_one_line(tmp_path, name):
    model = learning.model()
    folder = ap.save_adapter(ap.LoRA(model, r=2), tmp_path / "own")
    (folder / name).write_bytes((folder / name).read_text().encode("utf-16"))
    with pytest.raises(CheckpointError, match=f"{name}: is in UTF-16"):
        ap.load_adapter(folder, model)


def test_a_report_with_a_mark_is_compared(tmp_path):
    from aligner_probe.probing.report import FORMAT, read_report

    (tmp_path / "report.json").write_text(json.dumps({"format": FORMAT}))
    _with_mark(tmp_path / "report.json")
    assert read_report(tmp_path) == {"format": FORMAT}
