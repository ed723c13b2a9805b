"""Data sets by name: "hub:NAME[:CONFIG][:SPLIT]", from local folders and without a network."""

import json
import re

import pytest
from texts import write

from aligner_probe.commands import run, train
from aligner_probe.errors import AlignerProbeError
from aligner_probe.probing.inputs import load_parts
from aligner_probe.tasks import hub, load_splits, load_task, sources
from aligner_probe.tasks.chat import Conversation, Message

USER, ANSWER = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}


@pytest.fixture(autouse=True, scope="module")
def offline(tmp_path_factory):
    """`datasets` reads its settings when it is imported, so they are set there, too."""
    datasets = pytest.importorskip("datasets")
    with pytest.MonkeyPatch.context() as patch:
        for where in (datasets.config, __import__("huggingface_hub").constants):
            patch.setattr(where, "HF_HUB_OFFLINE", True)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data set of two configs, the second of which has no default split."""
    path = tmp_path_factory.mktemp("pets")
    card = {
        "configs": [
            {"config_name": "cats", "data_files": [{"split": s, "path": f"cats/{s}.jsonl"} for s in ("train", "test")]},
            {"config_name": "dogs", "data_files": [{"split": s, "path": f"dogs/{s}.jsonl"} for s in ("old", "new")]},
        ]
    }
    (path / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    for name in ("cats/train", "cats/test", "dogs/old", "dogs/new"):
        (path / name).parent.mkdir(exist_ok=True)
        rows = [{"prompt": f"{name} {i}", "completion": f" {i}", "note": None} for i in range(3)]
        write(path / f"{name}.jsonl", rows)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A data set of conversations without a card, with the three usual splits."""
    path = tmp_path_factory.mktemp("chats")
    for part in ("train", "test", "validation"):
        write(path / f"{part}.jsonl", [{"messages": [USER | {"content": part}, ANSWER]}])
    return path


def test_configs_and_splits_are_told_apart(folder):
    task = load_task(f"hub:{folder}:cats")
    assert task.prompts == [f"cats/train {i}" for i in range(3)]
    assert (task.name, task.unit, [e.line for e in task.examples]) == (folder.name, "row", [1, 2, 3])
    assert re.fullmatch(rf"hub:{folder}:cats:train@[0-9a-f]+", task.source)
    assert load_task(f"hub:{folder}:cats:test").prompts[0] == "cats/test 0"
    assert load_task(f"hub:{folder}:dogs:new[1:]").prompts == ["dogs/new 1", "dogs/new 2"]


def test_the_hash_is_that_of_the_rows(folder, plain):
    one, again, other = (load_task(f"hub:{folder}:cats:{split}").sha256 for split in ("train", "train[:3]", "test"))
    assert one == again != other


def test_conversations_are_read_and_parts_are_known(plain):
    asked = Conversation((Message("user", "train"),))
    assert load_task(f"hub:{plain}").prompts == [asked]
    assert load_task(f"hub:{plain}:test").prompts != [asked]
    train_part, test = load_splits(f"hub:{plain}")
    assert test is not None
    assert str(test.prompts[0]) == "test"
    assert train_part.prompts == [asked]
    given = load_parts(f"hub:{plain}")
    assert [str(part.prompts[0]) for part in (given.train, given.test, given.validation)] == [
        "train",
        "test",
        "validation",
    ]
    # Who names a split means that one alone.
    assert load_splits(f"hub:{plain}:default:train")[1] is None
    assert load_splits(f"hub:{plain}:train", f"hub:{plain}:validation")[1].source.startswith(f"hub:{plain}:default:val")


def test_a_saved_data_set_is_read(tmp_path):
    from datasets import Dataset, DatasetDict

    parts = {part: Dataset.from_list([{"prompt": part, "completion": "x"}]) for part in ("train", "test")}
    DatasetDict(parts).save_to_disk(tmp_path / "both")
    parts["test"].save_to_disk(tmp_path / "one")
    assert [part.prompts for part in load_splits(f"hub:{tmp_path / 'both'}")] == [["train"], ["test"]]
    task = load_task(f"hub:{tmp_path / 'one'}")
    assert task.prompts == ["test"]
    assert re.search("@[0-9a-f]+$", task.source)
    with pytest.raises(AlignerProbeError, match=r"Name it as hub:"):
        load_task(tmp_path / "both")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{folder}", "has the configs cats, dogs, and none is named; expected one, for instance"),
        ("{folder}:cows", r"has the configs cats, dogs, and none is named"),
        ("{folder}:cat:train", "has no config 'cat' .did you mean cats. expected one of cats, dogs"),
        ("{folder}:dogs", "has the splits old, new; expected one by name"),
        ("{folder}:cats:tests", "has no split or config 'tests' .did you mean test. expected one of train, test"),
        ("{folder}:cats:train:x", 'has 4 parts.*expected "hub:NAME"'),
        ("", 'has 1 parts, 0 with text; expected "hub:NAME"'),
        ("{folder}:cats:train[:x]", "cannot be read by datasets"),
        ("nobody/nothing", "cannot be reached .*OfflineModeIsEnabled.*expected a network"),
        ("{folder}/nowhere", "cannot be read by datasets"),
    ],
)
def test_names_that_mean_nothing_are_one_line(folder, name, says):
    name = f"hub:{name.format(folder=folder)}"
    with pytest.raises(AlignerProbeError, match=says) as caught:
        load_task(name)
    assert str(caught.value).startswith(f"{name}: ")
    assert "\n" not in str(caught.value)


def test_only_readers_of_plain_files_are_used(tmp_path):
    (tmp_path / "train.xml").write_text("<a/>")
    with pytest.raises(AlignerProbeError, match=r"its files are read by datasets.packaged_modules.xml"):
        load_task(f"hub:{tmp_path}")
    (tmp_path / "train.xml").unlink()
    (tmp_path / f"{tmp_path.name}.py").write_text("raise SystemExit('code was executed')")
    with pytest.raises(AlignerProbeError, match="cannot be read by datasets"):
        load_task(f"hub:{tmp_path}")


def test_bad_rows_and_too_many_rows_are_named(plain, tmp_path, monkeypatch):
    write(tmp_path / "train.jsonl", [{"messages": [USER, ANSWER]}, {"messages": [ANSWER, USER]}])
    with pytest.raises(AlignerProbeError, match=r"^hub:\S+:default:train@\w+, row 2: message 1 is of the assistant"):
        load_task(f"hub:{tmp_path}")
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 20)
    with pytest.raises(AlignerProbeError, match=r"bytes, over the limit of 20; .*:train\[:10000\]"):
        load_task(f"hub:{plain}")


def test_the_library_is_imported_only_when_it_is_asked_for(plain, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(AlignerProbeError, match="needs the package datasets"):
        load_task(f"hub:{plain}")
    assert len(load_task(plain)) == 1


def test_a_command_takes_the_name(folder, tmp_path, capsys):
    options = ["--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert run(train.main, ["--task", f"hub:{folder}:cats", "--validation", f"hub:{folder}:cats:train", *options]) == 2
    assert "have a prompt that was trained" in capsys.readouterr().err


def test_the_parts_of_a_name():
    assert hub._parts("hub:a/b:c:train[:10%]") == ["a/b", "c", "train[:10%]"]
    assert not hub.is_hub("hubs/x.jsonl")
