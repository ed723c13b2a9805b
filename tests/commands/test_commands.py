"""Commands answer at once, and the front door leads where it says."""

import importlib
import pkgutil
import subprocess
import sys

import pytest

import aligner_probe as ap

COMMANDS = ("forensics", "figures", "train", "export", "microworld", "reproduce", "probe")
HEAVY = ("torch", "numpy", "pandas", "scipy", "sklearn", "matplotlib", "seaborn", "umap", "transformers")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['{command}', '--help']\n"
        "try:\n"
        f"    runpy.run_module('aligner_probe.{command}', run_name='__main__')\n"
        "except SystemExit as stop:\n"
        "    print('exit', stop.code)\n"
        f"print('heavy', [name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: python -m aligner_probe." in done.stdout
    assert "exit 0" in done.stdout
    assert "heavy []" in done.stdout


def test_front_door_opens_after_every_module_is_imported():
    """An imported submodule must not shadow a function of the front door."""
    for module in pkgutil.walk_packages(ap.__path__, "aligner_probe."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ap.__all__:
        thing = getattr(ap, name)
        assert callable(thing), name
        assert thing.__name__ == name
    with pytest.raises(AttributeError, match="there are Aligner, AlignerProbeError"):
        ap.nothing  # noqa: B018


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
