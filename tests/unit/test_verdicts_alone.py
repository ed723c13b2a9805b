"""Deciding a verdict needs no model, so its modules import neither torch nor TransformerLens."""

import subprocess
import sys

import pytest
from conftest import ROOT

MODULES = sorted(
    f"aligner_probe.probing.verdicts.{file.stem}"
    for file in (ROOT / "aligner_probe" / "probing" / "verdicts").glob("[!_]*.py")
)
#: What the modules import, directly or not, beside scientific Python.
PROGRAM = """
import importlib, sys
for name in {modules}:
    importlib.import_module(name)
heavy = [name for name in ("torch", "transformer_lens", "transformers", "ray") if name in sys.modules]
print(",".join(heavy))
makers = [name for name in sys.modules if name.startswith("aligner_probe.probing.") and ".verdicts" not in name]
print(",".join(makers))
"""


@pytest.fixture(scope="module")
def imported():
    """What a new process has imported after all modules of the room: heavy packages, and modules of probing."""
    assert len(MODULES) >= 7
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(modules=MODULES)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [[name for name in line.split(",") if name] for line in found.stdout.splitlines()]


def test_no_torch_and_no_base_model(imported):
    assert imported[0] == []


def test_nothing_that_makes_results(imported):
    assert set(imported[1]) <= {"aligner_probe.arms", "aligner_probe.arms.names"}  # the names of the arms


def test_a_lazy_package_has_its_names_and_no_others():
    import aligner_probe.evaluation
    import aligner_probe.tasks

    for package in (aligner_probe.evaluation, aligner_probe.tasks):
        assert sorted(package._HOMES) == sorted(package.__all__)
        assert all(getattr(package, name) is not None for name in package.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            _ = package.nothing
