"""The panel's tasks are listed, for a reader and for a program, and each name that is listed can be loaded."""

import pytest

import aligner_probe as ap
from aligner_probe.commands import probe, train
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.panel import PANEL


def test_every_task_is_listed_and_loads():
    listed = ap.list_tasks()
    assert sorted(task.name for task in listed) == sorted(file.parent.name for file in PANEL.glob("*/train.jsonl"))
    for one in listed:
        assert len(ap.load_task(f"panel:{one.name}")) == one.n_train
        assert one.why


def test_the_command_lists_them(capsys):
    assert probe.main(["tasks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for task in ap.list_tasks():
        [line] = [line for line in lines if line.split()[0] == task.name]
        assert line.split()[1:4] == [task.nature, task.kind, str(task.n_train)]


def test_the_help_says_how_to_list_them(capsys):
    for command, arguments in ((train, ["--help"]), (probe, ["run", "--help"])):
        with pytest.raises(SystemExit):
            command.main(arguments)
        said = " ".join(capsys.readouterr().out.split()).replace("- ", "-")  # argparse breaks lines at hyphens, too
        assert "panel:NAME" in said
        assert "aligner-probe probe tasks" in said or "`tasks` lists" in said


def test_an_empty_name_lists_them():
    with pytest.raises(AlignerProbeError, match=r"style_pirate.*aligner-probe probe tasks"):
        ap.load_task("panel:")
