"""Notebooks are stored without outputs and run from top to bottom."""

import json

import pytest
from conftest import DATA, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Folders of ALIGNER_PROBE_DATA that a notebook takes its data from.
NEEDS = {"01_published_weights": ("published",)}
#: Those that take more than about 20 s.
LONG = ("02_train_an_aligner", "03_micro_world", "04_probe_your_task")
RUN = [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ()) for path in NOTEBOOKS]


def read(path):
    """A notebook; nbformat is imported here, since that takes seconds and each test process collects this file."""
    import nbformat

    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    """Read as plain JSON, which needs no nbformat."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    notebook = read(path)
    run(notebook, path, tmp_path, monkeypatch)
    assert any("image/png" in output.get("data", {}) for output in shown(notebook))


TWICE = [path for path in NOTEBOOKS if path.stem != "04_probe_your_task"]


@pytest.mark.slow
@pytest.mark.parametrize("path", TWICE, ids=lambda path: path.stem)
def test_every_cell_can_be_run_twice(path, tmp_path, monkeypatch):
    """In all notebooks but the one that trains for minutes."""
    from nbformat.v4 import new_code_cell

    notebook = read(path)
    notebook.cells = [
        new_code_cell(cell.source) for cell in notebook.cells if cell.cell_type == "code" for _ in range(2)
    ]
    run(notebook, path, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "learned"), [(120, True), (1, False)])
def test_what_notebook_02_says_follows_from_its_numbers(steps, learned, tmp_path, monkeypatch):
    """After one step nothing is learned, and it says so; as it stands, the form is learned."""
    [path] = [path for path in NOTEBOOKS if path.stem == "02_train_an_aligner"]
    notebook = read(path)
    for cell in notebook.cells:
        cell.source = cell.source.replace("steps=120", f"steps={steps}")
    run(notebook, path, tmp_path, monkeypatch)
    said = "".join(output.get("text", "") for output in shown(notebook))
    assert said.count("has learned the form") == 2 * learned
    assert said.count("has not learned the form") == 2 * (not learned)


def run(notebook, path, folder, monkeypatch):
    """Execute it with no data but what it needs."""
    from nbclient import NotebookClient

    needed = [DATA / name for name in NEEDS.get(path.stem, ())]
    for one in needed:
        if not one.is_dir():
            pytest.skip(f"no {one}; set ALIGNER_PROBE_DATA to a folder that has it")
    if not needed:
        monkeypatch.setenv("ALIGNER_PROBE_DATA", str(folder / "nothing"))
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()


def shown(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
