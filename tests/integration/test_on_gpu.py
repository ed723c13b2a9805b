"""The script that checks and times the package on a GPU: at tiny size, on the CPU and on a device that is none."""

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from conftest import ROOT
from elsewhere import NAME, Elsewhere


@pytest.fixture
def benchmarks(monkeypatch):
    """The modules beside the script."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import gpu_checks
    import gpu_speed
    import on_gpu

    return on_gpu, gpu_checks, gpu_speed


def check(value=0.5):
    return {"name": "a", "value": value, "bound": 1.0, "passed": value <= 1.0}


def whole(on_gpu):
    """A result as the script writes it."""
    timed = {"ms": 1.0, "ratio": [1.0, 1.0, 1.0], "rounds": 3}
    row = {"model": "1B", "n_parameters": 9, "dtype": "bfloat16", "positions": 8, "variant": "Aligner-1"}
    measured = {"batch": 2, "largest_batch": 4, "n_trained": 3, "peak_bytes": 5, "new_tokens": 4}
    return {
        "configuration": on_gpu.configuration("cpu", "tiny", 9.0),
        "numerics": [check()],
        "training": [check()],
        "hooks": [check()],
        "probe": {"task": "t", "steps": 2, "verdict": "new", "reason": "r", "runs": 4, "together": 1},
        "speed": [row | measured | {"step": timed, "token": timed}, row | {"batch": 0, "largest_batch": 0}],
        "errors": {},
    }


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda r: r["configuration"].pop("seed"), "configuration has no seed"),
        (lambda r: r["configuration"].update(schema=0), "schema 0, not 1"),
        (lambda r: r["numerics"][0].update(value="small"), "numerics 0: value is 'small', no float"),
        (lambda r: r.pop("probe"), "no probe"),
        (lambda r: r["speed"][0].pop("token"), "speed 0 has no token"),
        (lambda r: r["speed"][0]["step"].pop("ratio"), "speed 0 step has no ratio"),
    ],
)
def test_a_result_is_held_against_its_schema(benchmarks, spoil, fault):
    on_gpu, _, _ = benchmarks
    result = whole(on_gpu)
    assert on_gpu.faults(result) == []
    spoiled = copy.deepcopy(result)
    spoil(spoiled)
    assert fault in on_gpu.faults(spoiled)


def test_a_check_fails_over_its_bound_and_where_it_is_not_a_number(benchmarks):
    on_gpu, checks, _ = benchmarks
    results = [checks.Check("a", value, 1e-4).to_dict() for value in (1e-4, 2e-4, float("nan"))]
    assert [one["passed"] for one in results] == [True, False, False]
    said = on_gpu.failures({"numerics": results})
    assert len(said) == 2
    assert said[0] == "a: 0.0002, at most 0.0001"


def test_the_fast_components_show_the_same_at_every_hook_point(benchmarks):
    _, checks, _ = benchmarks
    names, largest = checks.hook_points("cpu")
    assert names.value == 0
    assert largest.passed


def test_models_of_random_weights_share_them(benchmarks):
    import setting

    size = setting.Size(64, 2, 4, 96, 128, 2, 16, kv_heads=2, tied=True)
    bases = setting.Bases(size, dtype="bfloat16")
    one, other = bases.plain(), bases.plain()
    ids = bases.ids(2, 16)
    assert torch.equal(one(ids).logits, other(ids).logits)
    assert one(ids).logits.std() > 0
    assert {p.data_ptr() for p in one.parameters()} == {p.data_ptr() for p in other.parameters()}
    assert {p.dtype for p in one.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in one.parameters()) == bases.n_parameters


@pytest.mark.slow
def test_the_whole_script_runs_at_tiny_size(tmp_path):
    out = tmp_path / "gpu.json"
    command = ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), "--device", "cpu", "--size", "tiny", "--seconds", "20"]
    done = subprocess.run(
        [*command, "--out", str(out)],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(out.read_text())
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import on_gpu
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    assert on_gpu.faults(result) == []
    assert result["passed"]
    assert result["errors"] == {}
    assert {row["variant"] for row in result["speed"]} >= {"Aligner-1", "PEFT LoRA r=8 (q, v)"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*meta parameter.*no-op")
def test_the_script_keeps_its_tensors_on_the_device(benchmarks, tmp_path, monkeypatch):
    on_gpu, checks, speed = benchmarks
    one = {"Aligner-10": checks.makers()["Aligner-10"]}
    monkeypatch.setattr(checks, "makers", lambda: one)
    monkeypatch.setattr(speed, "SIZES", {"tiny": {"tiny": replace(speed.SIZES["tiny"]["tiny"], batch=1)}})
    with Elsewhere() as device:
        # test_devices.py makes a probe there.
        parts = tuple(part for part in on_gpu.PARTS if part != "probe")
        result = on_gpu.run(NAME, "tiny", 1.0, parts, tmp_path / "gpu.json")
    assert result["errors"] == {}
    assert on_gpu.faults(json.loads((tmp_path / "gpu.json").read_text())) == ["no probe"]
    # The time of attention by plain operations says nothing, but its numbers are those of the CPU.
    assert on_gpu.failures(result) == []
    assert device.met["aten::mm"] > 1000
