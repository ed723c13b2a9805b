"""How many threads the work with a base has: the rule by size, the user's choice, and what comes back afterwards."""

import os
import subprocess
import sys

import pytest
import torch
from learning import model, quick, task

import aligner_probe as ap
from aligner_probe import threads
from aligner_probe.adapters import Aligner
from aligner_probe.commands.options import use_threads
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate_ids
from aligner_probe.jobs import pool
from aligner_probe.models import threads_for
from aligner_probe.threads import SMALL, as_begun, exactly, set_threads, threads_of_size, using
from aligner_probe.training import fit
from aligner_probe.training.callbacks import Callback
from aligner_probe.training.state import STATE


@pytest.fixture(autouse=True)
def three_threads(monkeypatch):
    """A machine on which torch takes three threads by itself, and a user who has chosen nothing."""
    before = torch.get_num_threads()
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "STARTED", 3)
    monkeypatch.setattr(threads, "_SET_BEFORE", False)
    monkeypatch.setattr(threads, "_chosen", None)
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


class Sees(Callback):
    """The number of threads at each step."""

    def __init__(self, stop_at=None):
        self.seen, self.stop_at, self.start = [], stop_at, None

    def started(self, start):
        self.start = start

    def stepped(self, row):
        self.seen.append(torch.get_num_threads())
        if row["step"] == self.stop_at:
            raise KeyboardInterrupt


def trained(base, **options):
    told = Sees(options.pop("stop_at", None))
    how = {"recipe": quick(steps=4), "show_progress": False, "callbacks": [told]}
    run = fit(base, Aligner(base, 1, 1), task(), **(how | options))
    return run, told


def test_small_bases_have_one_thread_and_larger_ones_torch_s():
    assert (threads_of_size(1_700_000).n, threads_of_size(SMALL - 1).n) == (1, 1)
    assert (threads_of_size(SMALL).n, threads_of_size(135_000_000).n) == (3, 3)
    assert threads_of_size(1_700_000, "cuda").n == 3
    assert "1.7 million" in threads_of_size(1_700_000).reason
    assert "--threads" in threads_of_size(1_700_000).reason
    assert not threads_of_size(5).given


def test_a_choice_of_the_user_is_never_overridden(monkeypatch):
    set_threads(2)
    assert {threads_of_size(n).n for n in (5, SMALL)} == {2} == {torch.get_num_threads()}
    assert threads_of_size(5).given
    set_threads(None)
    assert (threads_of_size(5).n, torch.get_num_threads()) == (1, 3)
    torch.set_num_threads(2)
    assert (threads_of_size(5).n, threads_of_size(5).given) == (2, True)
    torch.set_num_threads(3)
    monkeypatch.setattr(threads, "_SET_BEFORE", True)
    assert (threads_of_size(5).n, threads_of_size(5).given) == (3, True)
    monkeypatch.setattr(threads, "_SET_BEFORE", False)
    for name in threads.VARIABLES:
        with monkeypatch.context() as environment:
            environment.setenv(name, "3")
            assert (threads_of_size(5).n, threads_of_size(5).reason) == (3, f"{name} is set")


def test_the_number_from_before_comes_back_and_a_larger_base_inside_gets_its_own():
    with using(threads_of_size(5)) as small:
        assert small.n == torch.get_num_threads() == 1
        # What `using` sets is no choice of the user.
        assert not threads_of_size(5).given
        with using(threads_of_size(SMALL)) as large:
            assert large.n == torch.get_num_threads() == 3
            assert threads_of_size(5).n == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 3
    with pytest.raises(RuntimeError), using(threads_of_size(5)):
        raise RuntimeError
    assert torch.get_num_threads() == 3
    with using(threads_of_size(5)):
        torch.set_num_threads(2)  # a user's call in a callback
        assert threads_of_size(5).given
    assert torch.get_num_threads() == 2


def test_an_exact_number_is_a_choice_for_the_length_of_a_block():
    with exactly(2):
        assert {threads_of_size(n).n for n in (5, SMALL)} == {2} == {torch.get_num_threads()}
    assert (threads_of_size(5).n, torch.get_num_threads()) == (1, 3)


@pytest.mark.parametrize("n", [0, -1, True, 10**9])
def test_a_number_that_cannot_be_is_one_line(n):
    with pytest.raises(AlignerProbeError, match="expected a whole number from 1 to"):
        ap.set_threads(n)
    assert torch.get_num_threads() == 3


def test_training_generation_and_scoring_compute_with_the_base_s_number(monkeypatch):
    base, seen = model(), []
    base.original_model.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    assert threads_for(base).n == 1
    run, told = trained(base)
    assert run.provenance["execution"]["threads"] == 1
    assert told.start.threads == threads_for(base)
    generate_ids(base, [[2, 3, 4]], max_new_tokens=2)
    from aligner_probe.evaluation import log_likelihoods

    log_likelihoods(base, task().examples[:2])
    assert set(seen) == set(told.seen) == {1}
    assert torch.get_num_threads() == 3
    seen.clear()
    set_threads(2)
    run, told = trained(base)
    generate_ids(base, [[2, 3, 4]], max_new_tokens=2)
    log_likelihoods(base, task().examples[:2])
    assert set(seen) == set(told.seen) == {2} == {run.provenance["execution"]["threads"]}


def test_a_resumed_run_has_the_number_that_it_began_with(tmp_path):
    base, out = model(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), exactly(2):
        trained(base, out=out, save_every=1, stop_at=3)
    _, told = trained(base, out=out, resume=True)
    assert set(told.seen) == {2}
    assert told.start.threads.reason == "as the run began"


def test_a_resumed_run_with_another_number_says_that_bits_may_differ(tmp_path):
    base, out = model(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(base, out=out, save_every=1, stop_at=3)
    set_threads(2)
    with pytest.warns(UserWarning, match="this run began with 1 threads; with 2 its last bits may differ"):
        _, told = trained(base, out=out, resume=True)
    assert set(told.seen) == {2}
    assert "last bits may differ" in str(told.start.threads)


def test_a_run_of_an_older_version_goes_on_and_says_what_is_not_known(tmp_path):
    base, out = model(), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        trained(base, out=out, save_every=1, stop_at=3)
    state = torch.load(out / STATE, weights_only=True)
    del state["threads"]
    torch.save(state, out / STATE)
    _, told = trained(base, out=out, resume=True)
    assert "not recorded" in str(told.start.threads)
    assert as_begun(threads_of_size(5), 1) == threads_of_size(5)


def _threads(shared, job):
    return torch.get_num_threads(), threads_of_size(SMALL).n


def test_processes_that_make_jobs_have_one_thread_or_the_chosen_number():
    assert list(pool.each(_threads, None, ["job"], 1)) == [("job", (1, 1))]
    assert torch.get_num_threads() == 3
    set_threads(2)
    assert list(pool.each(_threads, None, ["job"], 1)) == [("job", (2, 2))]


def test_the_number_of_torch_is_told_from_a_user_s_in_a_new_process():
    code = (
        "import torch\n{before}\n"
        "from aligner_probe.threads import threads_of_size\n{after}\n"
        "print(threads_of_size(5).n, threads_of_size(5).given)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in threads.VARIABLES}

    def said(before="", after="", **more):
        command = [sys.executable, "-c", code.format(before=before, after=after)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment | more)
        return done.stdout.split()

    told = "print(threads_of_size(5).n, threads_of_size(5).given)\n"
    before_and_after = said(after=f"{told}torch.set_num_threads(torch.get_num_threads() + 2)")
    assert (before_and_after[:2], before_and_after[3]) == (["1", "False"], "True")
    assert said(OMP_NUM_THREADS="2") == ["2", "True"]
    if sys.platform != "darwin":
        assert said(before="import os; torch.set_num_threads(2 * os.cpu_count() + 1)")[1] == "True"


def test_every_command_that_computes_has_the_option():
    from aligner_probe.commands import export, microworld, probe, reproduce, train

    given = {
        train: ["--model", "M", "--task", "T", "--out", "O"],
        export: ["S", "--to", "peft", "--out", "O"],
        reproduce: [],
        probe: ["run", "--task", "T"],
        microworld: ["exam"],
    }
    others = [(probe, ["panel"]), (microworld, ["pretrain"])]
    for module, arguments in [*given.items(), *others]:
        assert module.parser().parse_args([*arguments, "--threads", "2"]).threads == 2
        assert module.parser().parse_args(arguments).threads is None
        for wrong in ("0", "-1", "x"):
            with pytest.raises(SystemExit):
                module.parser().parse_args([*arguments, "--threads", wrong])
    use_threads(2)
    assert torch.get_num_threads() == 2
    use_threads(None)
    assert torch.get_num_threads() == 2


def test_threads_of_a_cluster_s_runs_cannot_be_chosen():
    from aligner_probe.commands.probe import main

    with pytest.raises(AlignerProbeError, match="--threads is for --backend processes"):
        main(["panel", "--backend", "ray", "--threads", "2"])
