"""The panel's tasks are listed, for a reader and for a program, and each name that is listed can be loaded."""

import subprocess
import sys

import aligner_probe as ap
from aligner_probe.tasks.panel import PANEL


def test_every_task_is_listed_and_loads():
    listed = ap.list_tasks()
    assert sorted(task.name for task in listed) == sorted(file.parent.name for file in PANEL.glob("*/train.jsonl"))
    for one in listed:
        assert len(ap.load_task(f"panel:{one.name}")) == one.n_train
        assert one.why


def test_the_command_lists_them():
    done = subprocess.run([sys.executable, "-m", "aligner_probe.probe", "tasks"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for task in ap.list_tasks():
        [line] = [line for line in lines if line.split()[0] == task.name]
        assert line.split()[1:4] == [task.nature, task.kind, str(task.n_train)]


def test_the_help_and_an_empty_name_say_how_to_list_them():
    for arguments in (["train", "--help"], ["probe", "run", "--help"], ["probe", "run", "--task", "panel:"]):
        command = [sys.executable, "-m", f"aligner_probe.{arguments[0]}", *arguments[1:]]
        done = subprocess.run(command, capture_output=True, text=True)
        said = " ".join((done.stdout + done.stderr).split())
        assert "panel:NAME" in said or "style_pirate" in said
        assert "aligner_probe.probe tasks" in said or "`tasks` lists" in said
