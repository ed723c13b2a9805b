"""The project's own files agree with each other."""

import re
import tomllib

import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {"pytorch": "torch", "matplotlib-base": "matplotlib"}


def requirements(*groups):
    named = [*PROJECT["dependencies"], *(r for group in groups for r in PROJECT["optional-dependencies"][group])]
    return {canonicalize_name(r.name): r.specifier for r in map(Requirement, named)}


def test_environment_yml_says_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    [pip] = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    found = {}
    for entry in [*conda, *(entry for entry in pip if not entry.startswith("--"))]:
        requirement = Requirement(entry)
        found[canonicalize_name(CONDA_NAMES.get(requirement.name, requirement.name))] = requirement.specifier
    found.pop("pip")
    assert str(found.pop("python")) == PROJECT["requires-python"]
    assert found == requirements("notebooks")


def test_lock_has_names_and_versions_only_and_satisfies_pyproject():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!]+", line) for line in lines)
    locked = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    for name, specifier in requirements("notebooks", "ray", "docs", "dev").items():
        assert name in locked, name
        assert specifier.contains(locked[name]), (name, locked[name])


def test_versions_agree():
    import aligner_probe

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    # pyproject.toml takes the version from the package, so there is one place for it.
    assert PROJECT["dynamic"] == ["version"]
    newest = re.search(r"^## \[(.+?)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert (aligner_probe.__version__, newest[2]) == (citation["version"], str(citation["date-released"]))
    assert newest[1] == aligner_probe.__version__


def test_a_wheel_says_that_the_package_is_typed():
    from hatchling.builders.wheel import WheelBuilder

    files = {file.distribution_path for file in WheelBuilder(str(ROOT)).recurse_included_files()}
    assert {"aligner_probe/py.typed", "aligner_probe/commands/entry.py"} <= files


def test_make_lint_checks_style_and_types():
    makefile = (ROOT / "Makefile").read_text()
    assert "\nlint: style types\n" in makefile
    assert "-m pyright" in makefile
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert [step.split()[:2] for step in steps if step] == [["make", "lint"], ["make", "test"]]
    assert workflow["jobs"]["test"]["strategy"]["matrix"] == {
        "os": ["ubuntu-latest", "macos-latest", "windows-latest"],
        "python": ["3.11", "3.12", "3.13"],
    }


def test_annotations_are_read_and_not_kept_as_text():
    """A signature that is kept as text is not checked by jaxtyping."""
    for path in (ROOT / "aligner_probe").rglob("*.py"):
        assert "from __future__ import annotations" not in path.read_text().splitlines(), path


def test_the_house_has_its_rooms():
    for name in (
        "aligner_probe",
        "notebooks",
        "figures",
        "artifacts",
        "tests",
        "environment.yml",
        "README.md",
        "LICENSE",
    ):
        assert (ROOT / name).exists(), name
