"""Checkpoints that a user trained and saved: they carry their data set and their base, so figures can label them."""

import dataclasses
import json

import learning
import micro
import pytest

import aligner_probe as ap
from aligner_probe.checkpoints import native
from aligner_probe.checkpoints.naming import base_label
from aligner_probe.errors import AlignerProbeError


def trained(folder, name, *, base=None, kind="sft", seed=0, **task_fields):
    """An Aligner after two steps on a task of this name, saved in `folder` by `save_adapter`."""
    model = learning.model() if base is None else base
    adapter = ap.Aligner(model, n_tokens=2, start_layer=1, seed=seed)
    task = dataclasses.replace(learning.task(8, kind=kind), name=name, **task_fields)
    ap.fit(model, adapter, task, recipe=learning.quick(steps=2))
    return ap.save_adapter(adapter, folder)


def test_a_saved_adapter_keeps_the_name_of_its_task(tmp_path):
    checkpoint = ap.load_checkpoint(trained(tmp_path / "a", "pirate"))
    assert checkpoint.data_set == "pirate"
    assert checkpoint.label.startswith("Aligner-2 · pirate · ")


def test_figure_16_compares_own_checkpoints_of_two_tasks(tmp_path):
    one = ap.load_checkpoint(trained(tmp_path / "a", "pirate"))
    other = ap.load_checkpoint(trained(tmp_path / "b", "polite"))
    drawing = ap.draw("fig16", ap.Collection([one, other]))
    assert {label for column in ("a", "b") for label in drawing.frame[column]} == {one.label, other.label}
    assert {one.data_set, other.data_set} == {"pirate", "polite"}


def test_two_tasks_of_one_name_are_told_apart(tmp_path):
    """Two files may have one name, "data.jsonl": they are different data sets, and no figure may say otherwise."""
    one = ap.load_checkpoint(trained(tmp_path / "a", "data", source="x/data.jsonl", sha256="1" * 64))
    other = ap.load_checkpoint(trained(tmp_path / "b", "data", source="y/data.jsonl", sha256="2" * 64))
    collection = ap.Collection([one, other])
    assert len(collection.groups) == 2
    assert len({c.data_set for c in collection.checkpoints}) == 2
    ap.draw("fig16", collection)


def test_two_seeds_on_one_task_are_one_data_set(tmp_path):
    one = ap.load_checkpoint(trained(tmp_path / "a", "pirate", seed=0))
    other = ap.load_checkpoint(trained(tmp_path / "b", "pirate", seed=1))
    collection = ap.Collection([one, other])
    assert [group.data_set for group in collection.groups] == ["pirate"]
    assert len({c.label for c in collection.checkpoints}) == 2
    with pytest.raises(AlignerProbeError, match="two data sets"):
        ap.draw("fig16", collection)


def test_the_task_outlives_saving_a_checkpoint_again(tmp_path):
    checkpoint = ap.load_checkpoint(trained(tmp_path / "a", "pirate"))
    again = ap.load_checkpoint(native.save_checkpoint(checkpoint, tmp_path / "again"))
    assert again.label == checkpoint.label


def test_a_preference_task_is_the_stage_dpo(tmp_path):
    checkpoint = ap.load_checkpoint(trained(tmp_path / "a", "better", kind="preference"))
    assert checkpoint.metadata["stage"] == "DPO"


def test_a_folder_that_was_written_before_names_its_task_too(tmp_path):
    """Such folders have the task in the record of the run only."""
    folder = trained(tmp_path / "a", "pirate")
    file = folder / native.PROVENANCE
    content = json.loads(file.read_text())
    content["metadata"] = {"base_model": content["metadata"]["base_model"]}
    file.write_text(json.dumps(content))
    assert ap.load_checkpoint(folder).data_set == "pirate"


def test_a_name_of_a_folder_does_not_overrule_the_record(tmp_path):
    assert ap.load_checkpoint(trained(tmp_path / "alpaca-llama2-7B" / "adapter", "pirate")).data_set == "pirate"


@pytest.mark.parametrize("run", [None, "text", [], {"task": None}, {"task": {"name": 3}}, {"task": {"name": ""}}])
def test_a_record_without_a_task_is_unknown_data(tmp_path, run):
    folder = trained(tmp_path / "a", "pirate")
    file = folder / native.PROVENANCE
    content = json.loads(file.read_text())
    content["metadata"], content["run"] = {}, run
    file.write_text(json.dumps(content))
    assert ap.load_checkpoint(folder).data_set == "unknown data"


def test_a_base_from_a_folder_is_labelled_by_the_folder_not_by_its_path(tmp_path):
    folder = trained(tmp_path / "a", "pirate", base=ap.load_model(micro.base()))
    checkpoint = ap.load_checkpoint(folder)
    assert checkpoint.label == "Aligner-2 · pirate · base"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("meta-llama/Llama-2-7b-hf", "LLaMA-2 7B"),
        ("microworld", "microworld"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/home/me/models/SmolLM2-135M", "SmolLM2-135M"),
        ("./models/mine/", "mine"),
        ("~/mine", "mine"),
        ("..", ".."),
        ("a/b/c", "c"),
    ],
)
def test_labels_of_bases(name, label):
    assert base_label(name) == label
