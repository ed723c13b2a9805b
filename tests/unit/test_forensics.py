"""Verdicts on simulated runs whose history is known, and on the authors' files."""

import json

import pytest
import torch
from builders import checkpoint, run
from in_process import called

from aligner_probe.analysis.forensics import compare_checkpoints
from aligner_probe.checkpoints import save_checkpoint
from aligner_probe.commands.forensics import main
from aligner_probe.errors import AlignerProbeError


@pytest.mark.parametrize("lr", [5e-4, 2e-3, 4e-3])
@pytest.mark.parametrize("keep_start", [False, True])
def test_shared_start_in_bfloat16(lr, keep_start):
    a, b = (run(order_seed=seed, lr=lr, keep_start=keep_start) for seed in (1, 2))
    report = compare_checkpoints(a, b)
    assert report.verdict == "shared_start_rounding", report.explanation
    assert report.signs.start == ("same" if keep_start else "not stored")
    # at once, numbers whose half ULP exceeds the largest step did not move, and the ladder shows it
    still = [band for band in report.equality.bands if band.n and band.half_ulp > lr]
    assert all(band.n_equal == band.n for band in still)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("seed", range(3))
def test_separate_starts(dtype, seed):
    a = run(start_seed=10 + seed, order_seed=1, dtype=dtype)
    b = run(start_seed=20 + seed, order_seed=2, dtype=dtype)
    assert compare_checkpoints(a, b).verdict == "independent"


def test_separate_starts_that_are_stored():
    a, b = (run(start_seed=seed, order_seed=seed, keep_start=True) for seed in (1, 2))
    report = compare_checkpoints(a, b)
    assert (report.verdict, report.signs.start) == ("independent", "different")


@pytest.mark.parametrize("lr", [1e-5, 1e-4, 1e-3])
def test_continuation(lr):
    a = run(order_seed=1)
    b = run(start=a.prefix, gates_start=a.gates, order_seed=2, lr=lr, steps=100)
    report = compare_checkpoints(a, b)
    assert report.verdict == "continuation", report.explanation
    assert "one trained state" in report.explanation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_continuation_that_is_stored(dtype):
    a = run(order_seed=1, dtype=dtype, keep_start=True)
    b = run(start=a.prefix, gates_start=a.gates, order_seed=2, lr=9e-3, dtype=dtype, keep_start=True)
    assert "b goes on from a" in compare_checkpoints(a, b).explanation
    report = compare_checkpoints(b, a)
    assert report.verdict == "continuation"
    assert "a goes on from b" in report.explanation


def test_shared_start_in_float32_leaves_nothing_to_explain():
    a, b = (run(order_seed=seed, dtype=torch.float32) for seed in (1, 2))
    report = compare_checkpoints(a, b)
    assert report.verdict == "undetermined"
    assert "no equal parameters to explain" in report.explanation
    assert report.equality.n_equal < 5


def test_bfloat16_numbers_saved_as_float32_are_still_known():
    a, b = (run(order_seed=seed) for seed in (1, 2))
    cast = checkpoint(prefix=b.prefix.float(), gates=b.gates.float(), seed=5)
    report = compare_checkpoints(a, cast)
    assert (report.verdict, report.equality.grid, report.equality.dtype_b) == (
        "shared_start_rounding",
        "bfloat16",
        "float32",
    )
    assert report.equality.prefix.ulps is None


def test_same_numbers_in_another_file():
    a = run(order_seed=1)
    assert compare_checkpoints(a, a).verdict == "same_file"
    copy = checkpoint(prefix=a.prefix.clone(), gates=a.gates.clone(), seed=7)
    assert compare_checkpoints(a, copy).verdict == "same_file"


def test_frozen_at_random_is_not_called_rounding():
    """Half the numbers equal, whatever their size: the control that the paper's reading would have needed."""
    a, b = (run(order_seed=seed, dtype=torch.float32) for seed in (1, 2))
    frozen = torch.rand(a.prefix.shape, generator=torch.Generator().manual_seed(0)) < 0.59
    copied = checkpoint(prefix=torch.where(frozen, a.prefix, b.prefix), gates=b.gates, seed=8)
    report = compare_checkpoints(a, copied)
    assert report.verdict == "undetermined"
    assert "magnitude does not decide" in report.explanation


def test_frozen_tokens_are_not_called_rounding():
    a, b = (run(order_seed=seed, train_tokens=False) for seed in (1, 2))
    report = compare_checkpoints(a, b)
    assert report.verdict == "undetermined"
    assert "gates only" in report.explanation


def test_frozen_gates_are_not_called_continuation():
    gates = torch.full((30, 32), 0.05, dtype=torch.bfloat16)
    a, b = (run(order_seed=seed) for seed in (1, 2))
    a, b = (checkpoint(prefix=c.prefix, gates=gates, seed=i) for i, c in enumerate((a, b)))
    assert compare_checkpoints(a, b).verdict == "shared_start_rounding"


def test_equal_numbers_though_stored_starts_differ():
    a, b = (run(order_seed=seed) for seed in (1, 2))
    starts = [torch.randn(a.prefix.shape, generator=torch.Generator().manual_seed(i)).bfloat16() for i in (1, 2)]
    a, b = (
        checkpoint(prefix=c.prefix, gates=c.gates, initial_prefix=s, seed=i)
        for i, (c, s) in enumerate(zip((a, b), starts, strict=True))
    )
    report = compare_checkpoints(a, b)
    assert report.verdict == "undetermined"
    assert "stored starts differ" in report.explanation


def test_a_chain_with_stored_starts_is_not_called_independent():
    """A -> B -> C, where C's stored start is B's end."""
    for dtype in (torch.bfloat16, torch.float32):
        a = run(order_seed=1, dtype=dtype, keep_start=True)
        b = run(start=a.prefix, gates_start=a.gates, order_seed=2, lr=1e-4, steps=50, dtype=dtype, keep_start=True)
        c = run(start=b.prefix, gates_start=b.gates, order_seed=3, lr=1e-4, steps=50, dtype=dtype, keep_start=True)
        assert compare_checkpoints(a, c).verdict == "continuation"


def test_two_snapshots_of_one_run_that_store_its_start():
    first = run(order_seed=1, keep_start=True)
    later = run(start=first.prefix, gates_start=first.gates, order_seed=2, lr=1e-4, steps=50)
    later = checkpoint(prefix=later.prefix, gates=later.gates, initial_prefix=first.initial_prefix, seed=9)
    report = compare_checkpoints(first, later)
    assert (report.verdict, report.signs.start) == ("continuation", "same")


def test_short_runs_on_other_data_are_no_continuation():
    for start in (None, 1338):
        for steps in (3, 10, 30):
            a, b = (run(order_seed=seed, steps=steps, start_seed=start or 1337) for seed in (1, 2))
            assert compare_checkpoints(a, b).verdict != "continuation"
            b = run(order_seed=1, steps=steps, start_seed=7)
            assert compare_checkpoints(a, b).verdict == "independent"


def test_frozen_unequal_gates_are_no_continuation():
    gates = 0.1 * torch.randn(30, 32, generator=torch.Generator().manual_seed(4)).bfloat16()
    a, b = (checkpoint(prefix=run(order_seed=seed).prefix, gates=gates, seed=seed) for seed in (1, 2))
    assert compare_checkpoints(a, b).verdict == "shared_start_rounding"


def test_a_rounded_copy_is_known_as_one():
    a = run(order_seed=1, dtype=torch.float32)
    b = checkpoint(prefix=a.prefix.bfloat16(), gates=a.gates.bfloat16(), seed=3)
    report = compare_checkpoints(a, b)
    assert report.verdict == "same_file"
    assert report.explanation.startswith("b is a, rounded to bfloat16")


def test_equal_numbers_used_otherwise_are_said_to_be():
    a = run(order_seed=1)
    b = checkpoint(prefix=a.prefix, gates=a.gates, gate_function="tanh", seed=3)
    assert "gate function linear and tanh" in compare_checkpoints(a, b).explanation


@pytest.mark.parametrize("d_model", [1, 2, 16])
def test_few_numbers_tell_nothing(d_model):
    a, b = (run(order_seed=seed, shape=(1, 1, d_model), n_layers=3, n_heads=2) for seed in (1, 2))
    report = compare_checkpoints(a, b)
    assert (report.verdict, "too few" in report.explanation) == ("undetermined", True)


def test_zero_and_extreme_prefixes(tmp_path, capsys):
    zero = checkpoint(prefix=torch.zeros(1, 1, 64, dtype=torch.bfloat16), seed=1)
    real = checkpoint(seed=2)
    for a, b in ((zero, real), (zero, checkpoint(prefix=zero.prefix, seed=4))):
        assert compare_checkpoints(a, b).verdict == "undetermined"
    huge = [
        checkpoint(prefix=checkpoint(seed=s).prefix.double().clamp(-3, 3) * 5e307, dtype=torch.float64, seed=s)
        for s in (1, 2)
    ]
    folders = [str(save_checkpoint(c, tmp_path / str(i))) for i, c in enumerate(huge)]
    assert main([*folders, "--json", "-"]) == 0
    [pair] = json.loads(capsys.readouterr().out)["pairs"]
    assert pair["mean_abs_difference"] is None


def test_never_moved_counts_against_the_stored_start():
    a, b = (run(order_seed=seed, lr=2e-3, keep_start=True) for seed in (1, 2))
    report = compare_checkpoints(a, b)
    share = float((a.prefix == a.initial_prefix).double().mean())
    assert report.never_moved[0] == pytest.approx(share)
    # identical in both is a lower bound, but for the few that met by chance
    assert report.equality.share_equal <= min(report.never_moved) + 0.02
    assert report.movement[0].from_start
    assert report.movement[0].gates == pytest.approx(1.0)
    assert compare_checkpoints(run(order_seed=1), run(order_seed=2)).never_moved == (None, None)


def test_different_sizes_need_the_option():
    one, ten = checkpoint(n_tokens=1), checkpoint(n_tokens=10, seed=1)
    with pytest.raises(AlignerProbeError, match="--common-prefix"):
        compare_checkpoints(one, ten)
    assert compare_checkpoints(one, ten, common_prefix=True).equality.prefix.n == 64


def test_authors_finding(authors):
    report = compare_checkpoints(authors["alpaca-1-7b"], authors["metamath-1-7b"])
    prefix, gates = report.equality.prefix, report.equality.gates
    assert (report.verdict, prefix.n_equal, prefix.n) == ("shared_start_rounding", 2407, 4096)
    assert round(prefix.correlation, 4) == 0.9603
    assert round(gates.correlation, 3) == 0.107
    large = [band for band in report.equality.bands if band.low >= 1]
    assert sum(band.n for band in large) == sum(band.n_equal for band in large) == 1283
    for low, share in ((0.5, 0.89), (0.25, 0.04)):
        [band] = [band for band in report.equality.bands if band.low == low]
        assert round(band.share_equal, 2) == share
    assert sum(band.n_equal for band in report.equality.bands if band.high <= 0.25) == 0


def test_authors_runs_of_other_sizes_agree_as_much(authors):
    report = compare_checkpoints(authors["alpaca-1-7b"], authors["metamath-100-7b"], common_prefix=True)
    assert report.verdict == "shared_start_rounding"
    assert report.equality.n_equal > 2407


def test_command_prints_and_writes(tmp_path, capsys):
    folders = [str(save_checkpoint(run(order_seed=seed, lr=2e-3), tmp_path / f"run{seed}")) for seed in (1, 2, 3)]
    assert main([*folders, "--json", str(tmp_path / "out" / "found.json")]) == 0
    assert capsys.readouterr().out.count("verdict: shared_start_rounding") == 3
    pairs = json.loads((tmp_path / "out" / "found.json").read_text())["pairs"]
    assert [(p["a"], p["b"]) for p in pairs] == [(folders[i], folders[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    for pair in pairs:
        assert {"n_numbers", "n_equal", "share_equal", "correlation", "mean_abs_difference"} <= set(pair)
        assert {"dtype_a", "dtype_b", "by_magnitude", "gates", "verdict", "explanation"} <= set(pair)
        assert sum(band["n"] for band in pair["by_magnitude"]) == pair["n_numbers"]
        assert sum(band["n_equal"] for band in pair["by_magnitude"]) == pair["n_equal"]
        assert set(pair["gates"]) >= {"n", "n_equal", "correlation"}
    assert main([*folders[:2], "--json", "-"]) == 0
    assert len(json.loads(capsys.readouterr().out)["pairs"]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere", "elsewhere"], "error: nowhere: does not exist"),
        (["one"], "expected two or more"),
        (["a", "b", "--gate", "sigmoid"], "invalid choice"),
        (["published:nothing", "b"], "no published checkpoint is named 'nothing'"),
    ],
)
def test_command_errors_are_one_line(arguments, says, capsys):
    done = called(capsys, main, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_command_refuses_an_unwritable_place_and_leaves_nothing(tmp_path, capsys):
    folders = [str(save_checkpoint(run(order_seed=seed, steps=5), tmp_path / f"run{seed}")) for seed in (1, 2)]
    (tmp_path / "file").write_text("in the way")
    done = called(capsys, main, *folders, "--json", tmp_path / "file" / "x.json")
    assert done.returncode == 2
    assert "cannot write to" in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run1", "run2"]
