"""The README is short, each of its blocks can be run twice, and its numbers are those of the files here."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
#: All blocks that can be run, in the order in which a reader meets them.
BLOCKS = re.findall(r"^```(python|bash)\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)
#: What marks the blocks that take minutes: a probe.
SLOW = ("ap.probe_task(", "--resume")
#: Commands of the shell that a test cannot run: they change the shell, or set up and test everything.
OF_THE_SHELL = ("source ", "make ", "conda ")


def is_slow(text):
    return any(mark in text for mark in SLOW)


def carry_out(language, text, folder, scope):
    """One block, as a reader would run it in `folder`."""
    if language == "python":
        exec(compile(text, "README.md", "exec"), scope)
        return
    for line in text.splitlines():
        if line.startswith(OF_THE_SHELL):
            continue
        program, *arguments = shlex.split(line)
        begin = {"python": [sys.executable], "aligner-probe": [sys.executable, "-m", "aligner_probe"]}[program]
        done = subprocess.run([*begin, *arguments], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_it_is_short():
    assert len(README.split()) <= 900


def test_the_quick_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = [block for block in BLOCKS if not is_slow(block[1])]
    assert len(quick) < len(BLOCKS)
    for language, text in quick:
        carry_out(language, text, tmp_path, {})
    rows = (tmp_path / "mytask.jsonl").read_text().splitlines()
    assert len({json.loads(row)["prompt"] for row in rows}) == 100


@pytest.mark.slow
def test_every_block_runs_twice(tmp_path, monkeypatch, capsys):
    """A probe of a task that the micro-world can do in the form that is asked for: the verdict is form."""
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for language, text in BLOCKS:
        for _ in range(2):
            carry_out(language, text, tmp_path, scope)
    assert (tmp_path / "out" / "mytask" / "report.html").is_file()
    report = json.loads((tmp_path / "out" / "mytask" / "report.json").read_text())
    assert report["verdict"] == "form"
    assert capsys.readouterr().out.count("form - ") == 2


def test_the_environment_is_activated_before_the_first_command():
    activated = README.index("source .venv/bin/activate")
    assert activated < min(README.index(start) for start in ("\npython -m", "\naligner-probe ") if start in README)
    assert ".venv\\Scripts\\" in README


def test_make_targets_are_there():
    makefile = (ROOT / "Makefile").read_text()
    lines = [line for _, text in BLOCKS for line in text.splitlines() if line.startswith("make ")]
    assert len(lines) == 2
    for line in lines:
        assert f"\n{line.split()[1]}:" in makefile
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_measure_and_verdict_is_explained():
    for name in ("Reference", "Floor", "F", "R_soft", "R1", "B", "Delta", "K"):
        assert re.search(rf"^- \*\*{name}\*\*: .*", README, re.MULTILINE), name
    for outcome in ("form", "latent", "new", "undetermined"):
        assert f"**{outcome}**" in README.partition("## What a verdict means")[2]


def test_numbers_of_the_panel_and_the_cuts_are_ours():
    from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

    tasks = json.loads((ROOT / "artifacts" / "panel" / "standard.json").read_text())["tasks"]
    counted = [task for task in tasks if task["nature"] in ("form", "latent", "new")]
    right = [task for task in counted if task["verdict"] == task["nature"]]
    left = [task for task in counted if task["verdict"] == "undetermined"]
    said = f"Of {len(counted)}, {len(right)} were right at the standard budget and {len(left)} undetermined"
    assert said in " ".join(README.split())
    assert len(right) + len(left) == len(counted)
    cuts = [f"{value:g}".removeprefix("0") for value in (THRESHOLDS.F_cut, THRESHOLDS.R_soft_cut)]
    assert f"F is high above {cuts[0]}, R_soft above {cuts[1]}" in README


def test_the_table_of_real_tasks_is_that_of_the_reports(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import real_probes

    assert real_probes.table(ROOT / "artifacts" / "real") in README


def test_numbers_of_the_published_weights_are_ours(authors):
    import aligner_probe as ap

    pair = ap.compare_checkpoints(authors["alpaca-1-7b"], authors["metamath-1-7b"])
    assert f"agree in {pair.equality.n_equal} of 4096 values" in README
