"""Files from strangers: told by content, bounded, never run."""

import os
import pickle
import zipfile

import pytest
import torch
from builders import checkpoint, lit_aligner_state, save_pth

from aligner_probe.checkpoints import load_checkpoint, scan_checkpoints
from aligner_probe.checkpoints.containers import MAX_VALUES
from aligner_probe.errors import AlignerProbeError, CheckpointError


def good(path):
    return save_pth(lit_aligner_state(checkpoint()), path)


class Runs:
    """Unpickled by a careless reader, this writes a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("wrap", ["zip", "legacy", "pickle"])
def test_code_in_a_pickle_is_not_run(tmp_path, wrap):
    mark, path = tmp_path / "ran", tmp_path / "weights.pth"
    state = lit_aligner_state(checkpoint()) | {"extra": Runs(mark)}
    if wrap == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=wrap == "zip")
    with pytest.raises(CheckpointError, match=r"refused unread|damaged") as caught:
        load_checkpoint(path)
    assert not mark.exists()
    # and the file would have run it
    if wrap == "pickle":
        assert "\n" not in str(caught.value)
        pickle.loads(path.read_bytes())
        assert mark.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty file"),
        (b'{"question": "Which of the following?"}\n', "JSON text"),
        (b'{"ab": [{"question": 1}]}\n', "JSON text"),
        (b"\n<!DOCTYPE html><html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00", "begins with"),
        (b"PK\x03\x04 and then nothing of a zip", "cut short"),
        (b"\x80\x02}q\x00.", "damaged|cut short"),
        ((10**9).to_bytes(8, "little") + b"{}", "wrong safetensors header"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, content, says):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_truncated_torch_files(tmp_path, keep):
    path = good(tmp_path / "weights.pth")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load_checkpoint(path)


def test_damaged_bytes_inside_a_torch_file(tmp_path):
    path = good(tmp_path / "weights.pth")
    content = bytearray(path.read_bytes())
    at = content.index(b"gating_factor")
    content[at - 40 : at] = b"\xff" * 40
    path.write_bytes(bytes(content))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        (10**9).to_bytes(8, "little") + b"{}",
        (20).to_bytes(8, "little") + b'{"prefix": nonsense}' + b"\0" * 64,
        b"\x01",
    ],
)
def test_wrong_safetensors_headers(tmp_path, content):
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="wrong safetensors header"):
        load_checkpoint(path)


def test_a_view_that_claims_a_giant_is_refused(tmp_path):
    giant = torch.ones(1).expand(MAX_VALUES + 1)
    path = save_pth({"global_value_embedding.weight": giant}, tmp_path / "weights.pth")
    assert path.stat().st_size < 10_000
    with pytest.raises(CheckpointError, match="values, more than"):
        load_checkpoint(path)


def test_a_zip_that_unpacks_to_a_giant_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("aligner_probe.checkpoints.containers.MAX_FILE_BYTES", 10**6)
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    assert path.stat().st_size < 10**6
    with pytest.raises(CheckpointError, match="would unpack to"):
        load_checkpoint(path)
    monkeypatch.setattr("aligner_probe.checkpoints.containers.MAX_FILE_BYTES", 10)
    with pytest.raises(CheckpointError, match="a whole model"):
        load_checkpoint(path)


@pytest.mark.parametrize("loaded", [torch.ones(3), [torch.ones(3)], {"a": 1.0}, {}])
def test_other_things_torch_saves(tmp_path, loaded):
    with pytest.raises(CheckpointError, match="holds"):
        load_checkpoint(save_pth(loaded, tmp_path / "weights.pth"))


def test_missing_and_wrong_places(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is empty"):
        load_checkpoint(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"holds notes\.txt"):
        load_checkpoint(tmp_path)


def test_scan_takes_by_content_and_lists_what_it_passes_over(tmp_path):
    good(tmp_path / "a" / "weights.dat")
    good(tmp_path / ".hidden" / "weights.pth")
    (tmp_path / "a" / "README.md").write_text("words")
    (tmp_path / "a" / "broken.pth").write_text('{"no": "weights"}')
    found, skipped = scan_checkpoints(tmp_path)
    assert [c.source for c in found] == [str(tmp_path / "a" / "weights.dat")]
    assert [(s.path, "JSON text" in s.reason) for s in skipped] == [(str(tmp_path / "a" / "broken.pth"), True)]


def test_scan_lists_what_cannot_be_looked_into(tmp_path):
    good(tmp_path / "a" / "weights.pth")
    good(tmp_path / "b" / "adapter" / "checkpoint-500" / "inner.pth")
    (tmp_path / "b" / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "gone.pth").symlink_to(tmp_path / "nowhere.pth")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "pipe.pth")
    found, skipped = scan_checkpoints(tmp_path)
    assert [c.source.removeprefix(str(tmp_path)) for c in found] == [
        "/a/weights.pth",
        "/b/adapter/checkpoint-500/inner.pth",
    ]
    assert sorted(s.path.removeprefix(str(tmp_path)) for s in skipped) == [
        "/b/adapter",
        "/gone.pth",
        "/linked",
        "/pipe.pth",
    ]
    with pytest.raises(CheckpointError, match="neither a file nor a folder"):
        load_checkpoint(tmp_path / "pipe.pth")


def test_absurd_layers_make_a_short_message(tmp_path):
    state = lit_aligner_state(checkpoint())
    state["transformer.h.9999999.attn.gating_factor"] = torch.zeros(1, 8, 1, 1, dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="names layer 9999999") as caught:
        load_checkpoint(save_pth(state, tmp_path / "deep.pth"))
    assert len(str(caught.value)) < 500


def test_scan_of_nothing(tmp_path):
    with pytest.raises(AlignerProbeError, match="no readable checkpoint"):
        scan_checkpoints(tmp_path)
    with pytest.raises(AlignerProbeError, match="no such folder"):
        scan_checkpoints(tmp_path / "nowhere")
    (tmp_path / "broken.pth").write_text("{}")
    with pytest.raises(AlignerProbeError, match="1 broken"):
        scan_checkpoints(tmp_path)
