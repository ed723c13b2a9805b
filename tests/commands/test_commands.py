"""One entry leads to every command, commands answer at once, and the front door leads where it says."""

import ast
import importlib
import pkgutil
import subprocess
import sys

import pytest
from conftest import ROOT

import aligner_probe as ap
from aligner_probe.commands.entry import COMMANDS, main

HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "seaborn", "umap", "transformers")


def executed(*words):
    """A new process of Python with these arguments."""
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_every_module_of_the_room_is_a_command_or_shared_by_them():
    modules = {file.stem for file in (ROOT / "aligner_probe" / "commands").glob("*.py")}
    parsers = {name for name in modules if hasattr(importlib.import_module(f"aligner_probe.commands.{name}"), "main")}
    assert parsers - {"entry"} == set(COMMANDS)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from aligner_probe.commands.entry import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    try:\n"
        "        main([command, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        print('exit', stop.code)\n"
        f"print('heavy', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = executed("-c", code)
    for command in COMMANDS:
        assert f"usage: aligner-probe {command} " in done.stdout
    assert done.stdout.count("exit 0\n") == len(COMMANDS)
    assert "heavy []" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_a_module_of_the_package_as_well(command):
    done = executed("-m", f"aligner_probe.{command}", "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: aligner-probe {command} " in done.stdout
    wrong = executed("-m", f"aligner_probe.{command}", "--no-such-option")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


def test_the_entry_alone_lists_the_commands(capsys):
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    for command, purpose in COMMANDS.items():
        assert sum(line.split() == [command, *purpose.split()] for line in lines) == 1
    assert executed("-m", "aligner_probe").stdout.splitlines() == lines


def test_the_entry_passes_the_other_words_on(capsys):
    assert main(["probe", "tasks"]) == 0
    assert "style_pirate" in capsys.readouterr().out
    assert main(["export", "nowhere", "--to", "native", "--out", "x"]) == 2
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "nearest"), [("trian", "train"), ("figure", "figures"), ("zzz", None)])
def test_an_unknown_command_is_one_line_with_the_nearest(word, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        main([word, "--out", "x"])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert not said.out
    assert (f"did you mean {nearest}?" in said.err) == (nearest is not None)
    assert all(command in said.err for command in COMMANDS)


def test_the_entry_says_its_version(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"aligner-probe {ap.__version__}\n"


def test_front_door_opens_after_every_module_is_imported():
    """An imported submodule must not shadow a function of the front door."""
    for module in pkgutil.walk_packages(ap.__path__, "aligner_probe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ap.__all__:
        thing = getattr(ap, name)
        assert callable(thing), name
        assert thing.__name__ == name
    with pytest.raises(AttributeError, match="there are Adapter, AdapterConfig, AdapterPool, Aligner"):
        ap.nothing  # noqa: B018


def test_editors_are_told_the_names_of_the_front_door():
    stub = ast.parse((ROOT / "aligner_probe" / "__init__.pyi").read_text(encoding="utf-8"))
    imported = {
        name.asname: f"{node.module}.{name.name}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert imported == {name: f"aligner_probe.{home}.{name}" for name, home in ap._HOMES.items()}
    [listed] = [node.value for node in stub.body if isinstance(node, ast.Assign)]
    assert ast.literal_eval(listed) == ap.__all__


def test_a_reader_that_goes_away_is_no_error():
    done = subprocess.run(
        f"{sys.executable} -m aligner_probe.figures --help | head -n 1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
