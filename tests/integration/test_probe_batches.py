"""Runs of a probe that share their batches: by sizes alone, the same numbers twice and killed, nothing made again."""

import json

import micro
import probes
import pytest
from learning import DIVERGES, plant_divergence

from aligner_probe.evaluation import ExactMatch
from aligner_probe.jobs.backend import Processes
from aligner_probe.jobs.folder import RESULT, RUNS
from aligner_probe.probing import batches, cells, run
from aligner_probe.probing.batches import SharedTraining, jobs, share_batches
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.plan import described, plan
from aligner_probe.probing.probe import with_batches
from aligner_probe.probing.splitting import split_task
from aligner_probe.tasks.encoding import encode

TWO_SEEDS = {"seeds": ((0, 1), (1, 0)), "arms": ("aligner-1", "aligner-1-shuffled")}


def bench(**changes):
    return ProbeBench(str(micro.base()), split_task(probes.styled()), ExactMatch(), plan("standard", **changes).budget)


def rows(by):
    """Tokens of the longest sequence that `by` trains on."""
    return max(map(len, encode(by.parts.train, by.model.tokenizer, max_length=99).sequences))


def test_the_rule_is_of_sizes_alone(monkeypatch):
    by = bench(batch_size=8, seeds=tuple((i, i) for i in range(5)))
    own = 8 * rows(by)
    for room, expected in ((3 * own, 3), (3 * own - 1, 2), (4 * own, 3), (5 * own, 5), (own, 1), (1, 1)):
        monkeypatch.setitem(batches.MOST_TOKENS, "cpu", room)
        probe = share_batches(plan(by.budget), by)
        assert share_batches(probe, by) == probe
        found = {(cell.arm, cell.kind): cell.together for cell in probe.cells}
        assert found["aligner-1", "train"] == found["lora-8", "train"] == expected
        assert found["aligner-1", "tune"] == min(expected, 3)
        alone = {together for (arm, _), together in found.items() if arm in ("full", "prompt-tuning-10", None)}
        assert alone == {1}
        assert probe.to_json() == share_batches(plan(by.budget), by).to_json()
        sizes = [
            len(job.cells) for job in jobs(probe.runs_of("lora-8"), micro.base()) if isinstance(job, SharedTraining)
        ]
        assert sizes == {1: [], 2: [2, 2, 1], 3: [3, 2], 5: [5]}[expected]
    monkeypatch.setitem(batches.MOST_TOKENS, "cpu", 3 * own)
    probe = share_batches(plan(by.budget), by)
    said = described(probe, {cell.id: 1.0 for cell in probe.cells}, 1)
    assert "Aligner-1                       5 runs                5 s, 3 in a batch" in said
    assert "Prompt tuning-10                5 runs                5 s\n" in said


def test_jobs_have_every_unfinished_cell_once_and_keep_their_batches(tmp_path):
    by = bench(batch_size=2, seeds=((0, 0), (1, 1), (2, 2)))
    probe = share_batches(plan(by.budget), by)
    finished = probe.runs_of("aligner-1")[1]
    (tmp_path / RUNS / finished.id).mkdir(parents=True)
    (tmp_path / RUNS / finished.id / RESULT).write_text("{}")
    for wave in probe.waves():
        made = jobs(wave, tmp_path)
        left = [cell for job in made for cell in (job.left if isinstance(job, SharedTraining) else [job])]
        assert sorted(cell.id for cell in left) == sorted(cell.id for cell in wave if cell != finished)
        assert len({job.id for job in made}) == len(made)
    [job] = jobs(probe.runs_of("aligner-1"), tmp_path)
    assert job.cells == probe.runs_of("aligner-1")
    assert (job.id, job.after) == (job.cells[2].id, job.cells[2].after)


def probe_of(**changes):
    return with_batches(probes.tiny_probe(**(TWO_SEEDS | changes)))


def made(out, **changes):
    """All cells of a probe."""
    probe = probe_of(**changes)
    run.make(probe.plan, probe.bench, out, Processes(1), show_progress=False)
    return probe.plan


@pytest.mark.slow
def test_numbers_are_those_of_runs_made_alone(tmp_path, monkeypatch):
    """But for rounding in float32; and tuned, the same rate is chosen."""
    tuned = {"tuned": True, "steps": 8}
    probe = made(tmp_path / "together", **tuned)
    assert {cell.together for cell in probe.cells if cell.kind == "train"} == {2}
    monkeypatch.setitem(batches.MOST_TOKENS, "cpu", 1)
    assert {cell.together for cell in made(tmp_path / "alone", **tuned).cells} == {1}
    for cell in (cell for cell in probe.cells if cell.kind == "train"):
        mine, theirs = (cells.read_result(tmp_path / out, cell.id) for out in ("together", "alone"))
        assert (mine["lr"], mine["best_step"]) == (theirs["lr"], theirs["best_step"])
        assert dict(mine["validation_loss"]) == pytest.approx(dict(theirs["validation_loss"]), rel=1e-4)
    mine, theirs = (cells.read_result(tmp_path / out, "aligner-1_tune")["trials"] for out in ("together", "alone"))
    assert [(one["rate"], one["steps"]) for one in mine] == [(one["rate"], one["steps"]) for one in theirs]
    assert [one["validation_loss"] for one in mine] == pytest.approx(
        [one["validation_loss"] for one in theirs], rel=1e-4
    )


def contents(out):
    """Files of a probe's cells, without what a clock says."""
    found = {}
    for file in sorted((out / RUNS).glob("*/**/*")):
        name = str(file.relative_to(out))
        if file.name == RESULT:
            found[name] = {k: v for k, v in cells.read_result(out, file.parent.name).items() if k != "seconds"}
        elif file.suffix == ".json":
            found[name] = {k: v for k, v in json.loads(file.read_text()).items() if k != "written"}
        elif file.is_file():
            found[name] = file.read_bytes()
    return found


@pytest.mark.slow
def test_twice_or_killed_the_same_bytes_and_nothing_made_again(tmp_path, monkeypatch):
    """Killed in the middle of a batch's training, and again when one of its two runs is finished."""
    real, asked = cells._Follow.stepped, cells._asked

    def killed_in_training(self, row):
        real(self, row)
        if row["step"] == 4:
            raise KeyboardInterrupt

    def killed_in_asking(bench, cell, *rest):
        if cell.start_seed == 1:
            raise KeyboardInterrupt
        return asked(bench, cell, *rest)

    for out in ("once", "twice"):
        made(tmp_path / out)
    assert contents(tmp_path / "once") == contents(tmp_path / "twice")

    out = tmp_path / "killed"
    for name, instead in (("_Follow.stepped", killed_in_training), ("_asked", killed_in_asking)):
        with monkeypatch.context() as patched:
            patched.setattr(f"aligner_probe.probing.cells.{name}", instead)
            with pytest.raises(KeyboardInterrupt):
                made(out)
    finished = {file: file.stat().st_mtime_ns for file in out.glob(f"{RUNS}/aligner-1_*/{RESULT}")}
    assert [file.parent.name for file in finished] == ["aligner-1_start0_order1"]
    started = []
    carry_out = cells.carry_out
    monkeypatch.setattr(
        run, "carry_out", lambda bench, job, *, out: started.append(job) or carry_out(bench, job, out=out)
    )
    made(out)
    assert [[cell.id for cell in job.left] for job in started] == [
        ["aligner-1_start1_order0"],
        ["aligner-1-shuffled_start0_order1", "aligner-1-shuffled_start1_order0"],
    ]
    assert {file: file.stat().st_mtime_ns for file in finished} == finished
    assert contents(out) == contents(tmp_path / "once")


def test_a_run_that_diverges_fails_alone(tmp_path, monkeypatch):
    how = cells.recipe_for

    def too_fast(bench, cell, lr):
        return how(bench, cell, DIVERGES if cell.order_seed == 1 else lr)

    monkeypatch.setattr(cells, "recipe_for", too_fast)
    plant_divergence(monkeypatch)
    probe = probe_of(arms=("lora-8",))
    [job] = jobs(probe.plan.runs_of("lora-8"), tmp_path)
    cells.carry_out(probe.bench, job, out=tmp_path)
    good, bad = (cells.read_result(tmp_path, f"lora-8_start{a}_order{b}") for a, b in ((1, 0), (0, 1)))
    assert "failed" not in good
    assert good["steps"] == probe.plan.budget.reference_steps
    assert "the loss is nan at step 2" in bad["failed"]
    assert not (tmp_path / RUNS / "lora-8_start0_order1" / cells.ADAPTER).exists()
    assert not jobs(probe.plan.runs_of("lora-8"), tmp_path)  # said once, it is not tried again
