"""The command `train`: what it prints and saves, that it resumes, and that a mistake is one line and leaves nothing."""

import json

import pytest
import torch
from conftest import small_model
from in_process import called

from aligner_probe.checkpoints.adapters import load_adapter
from aligner_probe.commands import train
from aligner_probe.models import load_model


@pytest.fixture
def small_task(tmp_path):
    path = tmp_path / "task.jsonl"
    rows = [{"prompt": f"Once {i} ", "completion": f"there was {i}"} for i in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_train_command(tmp_path, small_task, capsys):
    folder = small_model("stories260K")
    out = tmp_path / "run"
    shared = ("--model", folder, "--task", small_task, "--start-layer", 1, "--out", out)
    more = ("--n-tokens", 3, "--steps", 4, "--lr", 0.01, "--batch-size", 6)
    done = called(capsys, train.main, *shared, *more)
    assert done.returncode == 0, done.stderr
    assert "validation loss" in done.stdout
    assert "learning rate 0.01, 4 steps of 6 examples (1.33 epochs), validated at the end of each epoch" in done.stdout
    assert "\nthreads: " in done.stdout
    assert "\naligner: " in done.stdout
    adapter = load_adapter(out / "adapter", load_model(folder))
    assert (adapter.method, adapter.config.n_tokens) == ("aligner", 3)
    provenance = json.loads((out / "adapter" / "provenance.json").read_text())
    assert provenance["run"]["recipe"]["lr"] == 0.01
    assert len(provenance["run"]["task"]["sha256"]) == 64
    again = called(capsys, train.main, *shared, *more)
    assert (again.returncode, "--resume" in again.stderr) == (2, True)
    finished = called(capsys, train.main, *shared, *more, "--resume")
    assert finished.returncode == 0, finished.stderr
    assert torch.equal(load_adapter(out / "adapter", load_model(folder)).gates, adapter.gates)
    frozen = called(capsys, train.main, *shared[:-1], tmp_path / "gates", "--freeze", "tokens", "--steps", 2)
    assert frozen.returncode == 0, frozen.stderr
    assert "40 trainable parameters" not in frozen.stdout
    assert "32 trainable parameters" in frozen.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--r", "8"], "aligner takes no --r"),
        (["--method", "lora", "--freeze", "gates"], "lora takes no --freeze"),
        (["--lr", "0"], "lr 0.0"),
        (["--completion-field", "answer"], "give --prompt-template"),
        (["--method", "magic"], "invalid choice"),
        ([], "cannot load a model from"),
    ],
)
def test_train_command_errors_are_one_line(tmp_path, small_task, arguments, says, capsys):
    shared = ("--model", tmp_path / "nowhere", "--task", small_task, "--out", tmp_path / "run")
    done = called(capsys, train.main, *shared, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "run").exists()
