"""The README's examples run as printed."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("times", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_python_examples(authors, tmp_path, monkeypatch, capsys, times):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in blocks("python"):
        # Twice, as a notebook's cell is.
        for _ in range(times):
            exec(compile(block, "README.md", "exec"), scope)
    assert (tmp_path / "out" / "mine" / "adapter_model.safetensors").is_file()
    said = capsys.readouterr().out
    assert "shared_start_rounding" in said
    assert "+0.954" in said


COMMANDS = [line for block in blocks("bash") for line in block.splitlines() if line.startswith("python ")]
assert len(COMMANDS) >= 4
#: Run by test_microworld_model too, and long.
EXAM = "python -m aligner_probe.microworld exam"
assert EXAM in COMMANDS


def runs(command, folder):
    _, *arguments = shlex.split(command)
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize(
    "command", [pytest.param(one, marks=pytest.mark.slow) if one == EXAM else one for one in COMMANDS]
)
def test_commands(authors, command, tmp_path):
    runs(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", [one for one in COMMANDS if "--out" in one])
def test_commands_run_twice_where_their_folder_is_there(authors, command, tmp_path):
    for _ in range(2):
        runs(command, tmp_path)


def test_the_environment_is_activated_before_the_first_command():
    activated = README.index("source .venv/bin/activate")
    assert activated < README.index("\npython -m")
    assert ".venv\\Scripts\\" in README


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    for line in (line for block in blocks("bash") for line in block.splitlines() if line.startswith("make ")):
        assert f"\n{line.split()[1]}:" in makefile
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_numbers_in_the_readme_are_ours(authors):
    """The table of findings, number by number."""
    import aligner_probe as ap

    pair = ap.compare_checkpoints(authors["alpaca-1-7b"], authors["metamath-1-7b"])
    large = [band for band in pair.equality.bands if band.low >= 1]
    gates = {
        name: ap.gate_statistics(authors[f"{name}-7b"])
        for name in ("alpaca-1", "metamath-1", "metamath-10", "metamath-100")
    }
    cosines = [
        ap.centre_test(authors["metamath-1-7b"], authors[many]).twin_cosine
        for many in ("metamath-10-7b", "metamath-100-7b")
    ]
    numbers = [
        f"{pair.equality.n_equal} are",
        f"all {sum(band.n for band in large)} from",
        *(f"{result.spearman.rho:.3f}".lstrip("0") for result in gates.values()),
        *(f"{result.spearman_upper.rho:+.2f}".replace("0.", ".").replace("-", "−") for result in gates.values()),
        f"{gates['alpaca-1'].at_powers_of_two} of 960",
        f"where {gates['alpaca-1'].expected_at_powers_of_two:.0f} are",
        f"cosine {cosines[0]:.3f} for MetaMath's ten, {cosines[1]:.3f} for its hundred".replace("0.", "."),
    ]
    for number in numbers:
        assert number in README, number
