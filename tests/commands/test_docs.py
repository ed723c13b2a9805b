"""The documentation names every public object, states the numbers that the code uses, and builds without a warning."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT

import aligner_probe as ap
from aligner_probe.probing.plan import BUDGETS
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

DOCS = ROOT / "docs"


def test_every_public_name_has_an_api_page():
    listed = set(re.findall(r"^   ([A-Za-z_]+)$", (DOCS / "api.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == set(ap.__all__)


def test_the_verdict_page_states_the_thresholds_in_use():
    page = (DOCS / "verdict.md").read_text(encoding="utf-8")
    for name, sentence in {
        "F_cut": "F is compared with the cut {}",
        "R1_cut": "R1 with the cut {}",
        "learned": "validation score {} or more",
        "least_gap": "reference minus floor is above {}",
        "prompting_works": "follows it in at least {} of the cases",
        "resolution": "a difference of {} in R",
        "power": "with power {}",
    }.items():
        wanted = sentence.format(f"{getattr(THRESHOLDS, name):g}".removeprefix("0"))
        assert wanted in " ".join(page.split()), name


def test_the_verdict_page_lists_the_budgets():
    page = (DOCS / "verdict.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == set(BUDGETS)


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    """Notebooks are left as they are here: tests of their own run them."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-D", "nb_execution_mode=off", "-d", tmp_path / "doctrees", DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "verdict.html").read_text(encoding="utf-8")
    assert "The six outcomes" in page
    assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css)', page), "a page fetches something"
