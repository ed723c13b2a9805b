"""The study engine: cells made once and in order, resumable folders, and the example of docs/howto/add_a_study.md."""

import json
import re
import runpy
from dataclasses import asdict, dataclass, replace

import pytest
from conftest import ROOT
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs.folder import RESULT, RUNS
from aligner_probe.study import Bench, Study, cell_folder, read_result, seconds_an_item, waves

PAGE = ROOT / "docs" / "howto" / "add_a_study.md"


@dataclass(frozen=True)
class Toy:
    id: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToyBench:
    fails: str = ""


made = []


def carry_out(bench, cell, *, out):
    made.append(cell.id)
    if cell.id == bench.fails:
        raise AlignerProbeError("it fails")
    with cell_folder(out, cell.id, asdict(cell)) as (folder, results):
        (folder / "extra.txt").write_text(cell.id)
        results["read"] = [read_result(out, before)["id"] for before in cell.after]


def toy(*cells, **options):
    made.clear()
    return Study(cells=cells, carry_out=carry_out, **({"bench": ToyBench(), "files": {"plan.json": "one"}} | options))


A, B, C = Toy("a", ("b",)), Toy("b"), Toy("c", ("a", "b"))


def test_cells_come_after_what_they_need_and_are_made_once(tmp_path):
    study = toy(A, B, C)
    study.make(tmp_path, show_progress=False)
    assert made == ["b", "a", "c"]
    assert read_result(tmp_path, "c")["read"] == ["a", "b"]
    assert (tmp_path / RUNS / "c" / "extra.txt").read_text() == "c"
    study.make(tmp_path, show_progress=False)
    assert made == ["b", "a", "c"]
    (tmp_path / RUNS / "a" / RESULT).unlink()
    assert study.unfinished(tmp_path) == [A]


def test_a_result_has_the_cell_its_seconds_and_what_made_it(tmp_path):
    toy(B).make(tmp_path, show_progress=False)
    result = read_result(tmp_path, "b")
    assert (result["id"], result["after"], result["read"]) == ("b", [], [])
    assert result["seconds"] >= 0
    assert set(result["provenance"]) == {"versions", "git"}  # no base model, so no fingerprint of one
    assert read_result(tmp_path, "a") is None


def test_a_folder_of_another_study_is_refused(tmp_path):
    toy(B).make(tmp_path, show_progress=False)
    with pytest.raises(AlignerProbeError, match=r"plan\.json is of another plan than this; name another folder"):
        toy(A, files={"plan.json": "other"}).make(tmp_path, show_progress=False)
    assert made == []


def test_a_failed_cell_is_named_and_the_others_of_its_wave_are_made(tmp_path):
    with pytest.raises(AlignerProbeError, match=r"1 of 2 runs failed.*b: it fails"):
        toy(B, Toy("d"), A, bench=ToyBench("b")).make(tmp_path, show_progress=False)
    assert made == ["b", "d"]
    toy(B, Toy("d"), A).make(tmp_path, show_progress=False)
    assert made == ["b", "a"]


def test_some_cells_and_cells_that_are_not_wanted(tmp_path):
    toy(A, B, C).make(tmp_path, only=[B], show_progress=False)
    assert made == ["b"]
    study = toy(A, B, C, is_wanted=lambda cell, out: cell.id != "a")
    assert study.unfinished(tmp_path) == [C]
    with pytest.raises(AlignerProbeError, match="a, c wait for one another"):
        waves([Toy("a", ("c",)), B, C])


def empty_model():
    return TransformerBridge.__new__(TransformerBridge)


def test_the_models_of_a_bench_are_loaded_once_and_kept_where_they_fit():
    @dataclass(frozen=True)
    class Counting(Bench):
        task: str = ""

        def load(self, dtype):
            loads.append(dtype)
            return empty_model()

    loads = []
    bench = Counting("base", "t")
    assert bench.model is bench.model
    assert bench.model is not bench.model_in("bfloat16")
    assert loads == ["float32", "bfloat16"]
    assert bench.changed(task="u").model is bench.model
    assert bench.changed(dtype="bfloat16").model is not bench.model_in("bfloat16")
    assert replace(bench).model is not bench.model  # as it travels to another process
    given = Counting("base", loaded=(there := empty_model()))
    assert given.model is there


def test_seconds_are_per_item():
    calls = []
    assert 0 <= seconds_an_item(lambda items: calls.append(len(items)), [1, 2, 3, 4]) < 1
    assert calls == [2, 4]


def test_the_page_s_example_runs_twice_and_computes_once(tmp_path, monkeypatch, capsys):
    [code] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code.strip().splitlines()) <= 40
    file = tmp_path / "toy_study.py"
    file.write_text(code)
    monkeypatch.chdir(tmp_path)
    written = []
    for _ in range(2):
        runpy.run_path(str(file), run_name="__main__")
        assert capsys.readouterr().out.splitlines() == ["[6.0]"]
        written.append({path: path.stat().st_mtime_ns for path in tmp_path.glob(f"toy/{RUNS}/*/{RESULT}")})
    assert {path.parent.name for path in written[0]} == {"measure", "compare"}
    assert written[1] == written[0]
    assert json.loads((tmp_path / "toy" / "plan.json").read_text())["cells"][1]["after"] == ["measure"]
