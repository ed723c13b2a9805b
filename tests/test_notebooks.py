"""Notebooks are stored without outputs and run from top to bottom."""

import nbformat
import pytest
from conftest import DATA, ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Folders of ALIGNER_PROBE_DATA that a notebook takes its data from.
NEEDS = {"01_published_weights": ("published",), "02_train_an_aligner": ("models/stories260K", "data/tinystories")}
#: Those that train for more than half a minute.
LONG = ("04_probe_your_task",)
RUN = [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ()) for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_runs(path, tmp_path):
    from nbclient import NotebookClient

    for needed in NEEDS.get(path.stem, ()):
        if not (DATA / needed).is_dir():
            pytest.skip(f"no {DATA / needed}; set ALIGNER_PROBE_DATA to a folder that has it")
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in shown)
