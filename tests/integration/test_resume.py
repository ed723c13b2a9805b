"""What a run goes on from: a state with a checksum, from which lost or damaged metrics are written anew."""

import json
import random
import shutil
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import Stops, model, quick, task

from aligner_probe.adapters import Aligner
from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs.folder import RESULT, RUNS
from aligner_probe.probing.cells import read_result
from aligner_probe.training import Training, fit, fit_together
from aligner_probe.training.state import METRICS, STATE, lower_layers_kept

STEPS, STOPPED = 6, 4


def run(base, folder, **options):
    train, validation = task(24).split(0.25, seed=0)
    how = {"recipe": quick(steps=STEPS), "save_every": 1, "show_progress": False, "resume": True} | options
    return fit(base, Aligner(base, 2, 1), train, validation=validation, out=folder, **how)


def numbers(done):
    return torch.cat([p.detach().flatten() for p in done.adapter.parameters()])


def told(done):
    return done.metrics.drop(columns="tokens_per_second").to_json()


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A base, a run that was interrupted on it, and the same run that was not."""
    base, folder = model(), tmp_path_factory.mktemp("resume")
    with pytest.raises(KeyboardInterrupt):
        run(base, folder / "begun", callbacks=[Stops(STOPPED)])
    return base, folder / "begun", run(base, folder / "whole")


@pytest.fixture
def copy(begun, tmp_path):
    return shutil.copytree(begun[1], tmp_path / "copy")


def without_checksum(folder, *, metrics=False):
    """The state as an older version wrote it."""
    state = torch.load(folder / STATE, weights_only=True)
    if not metrics:
        del state["metrics"]
    torch.save(state, folder / STATE)


METRICS_LOST = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "a byte that is no UTF-8": lambda file: file.write_bytes(b"\xff" + file.read_bytes()),
    "such a byte inside": lambda file: file.write_bytes(file.read_bytes().replace(b"loss", b"lo\xffs")),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "half of it": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "JSON, but no rows": lambda file: file.write_text('[1]\n3\nnull\n{"step": "two"}\n{"step": null}\n{"loss": 1}\n'),
    "rows of another run": lambda file: file.write_text('{"step": 1, "loss": 99.0}\n'),
    "steps that the state does not know": lambda file: file.write_text('{"step": 77, "loss": 99.0}\n'),
    "deep JSON": lambda file: file.write_text("[" * 100_000),
}


@pytest.mark.parametrize("what", METRICS_LOST)
def test_metrics_that_are_lost_come_back_from_the_state(begun, copy, what):
    base, _, whole = begun
    METRICS_LOST[what](copy / METRICS)
    again = run(base, copy)
    assert torch.equal(numbers(again), numbers(whole))
    assert told(again) == told(whole)
    lines = (copy / METRICS).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("what", METRICS_LOST)
def test_with_a_state_of_an_older_version_they_are_missed(begun, copy, what):
    base = begun[0]
    without_checksum(copy)
    METRICS_LOST[what](copy / METRICS)
    before = (copy / STATE).read_bytes()
    if what == "a byte that is no UTF-8":  # only the line before the first step is lost
        METRICS_LOST["such a byte inside"](copy / METRICS)
    if what == "cut short":  # a step after the last state
        (copy / METRICS).write_bytes((copy / METRICS).read_bytes().rsplit(b"\n", 2)[0])
    says = r"metrics.jsonl has no readable line for \d of 3 steps, the first \d, .* put a copy of the file back"
    with pytest.warns(UserWarning, match="no checksum"), pytest.raises(AlignerProbeError, match=says):
        run(base, copy)
    assert (copy / STATE).read_bytes() == before


@pytest.mark.parametrize("metrics", [True, False])
def test_states_of_older_versions_are_resumed_and_it_is_said(begun, copy, metrics):
    base, _, whole = begun
    without_checksum(copy, metrics=metrics)
    with pytest.warns(UserWarning, match=r"state.pt was written by an older version and has no checksum"):
        again = run(base, copy)
    assert torch.equal(numbers(again), numbers(whole))
    assert told(again) == told(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(numbers(run(base, copy)), numbers(whole))  # it has one now


def flipped(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_a_flipped_bit_anywhere_is_refused(begun, copy):
    """Where the mark of the checksum itself is hit, the rest is whole and the numbers are the same."""
    state = copy / STATE
    whole = bytearray(state.read_bytes())
    bits, accepted = random.Random(0), []
    end = len(whole) - 64 - 22
    for place in [*range(0, end, 1 + end // 300), *range(end, len(whole))]:
        content = whole.copy()
        content[place] ^= 1 << bits.randrange(8)
        state.write_bytes(content)
        try:
            lower_layers_kept(copy)
            accepted.append(place)
        except AlignerProbeError as error:
            assert str(error).startswith(f"{state} is damaged") and "\n" not in str(error)  # noqa: PT017, PT018
    assert all(end <= place < end + 22 for place in accepted)


@settings(max_examples=15, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.booleans())
def test_after_a_flipped_bit_it_is_refused_or_ends_in_the_same_numbers(begun, tmp_path_factory, where, at_the_end):
    base, folder, whole = begun
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("flipped") / "run")
    n = (copy / STATE).stat().st_size
    bit = int(8 * (n - 90 * (1 - where))) if at_the_end else int(8 * n * where)
    flipped(copy / STATE, min(bit, 8 * n - 1))  # a share just below 1 may round up to the end
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            again = run(base, copy)
    except AlignerProbeError as error:
        assert "damaged" in str(error)  # noqa: PT017
    else:
        assert torch.equal(numbers(again), numbers(whole))


@pytest.mark.parametrize("change", ["numbers", "optimizer", "progress", "best", "start"])
def test_a_state_without_what_a_state_has_is_one_line(begun, copy, change):
    state = torch.load(copy / STATE, weights_only=True)
    for wrong in (None, 3, {"x": 1}, "words"):
        broken = {key: value for key, value in state.items() if key != change}
        torch.save(broken | ({change: wrong} if wrong is not None else {}), copy / STATE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(AlignerProbeError, match="is damaged, or no saved state"):
                run(begun[0], copy)


def test_runs_that_share_a_batch_get_their_metrics_back(tmp_path):
    base = model()

    def both(folder, **options):
        made = [Training(adapter=Aligner(base, n, 1), task=task(16), recipe=quick(steps=3)) for n in (1, 2)]
        return fit_together(base, made, out=folder, show_progress=False, **options)

    whole = both(tmp_path / "run")
    (tmp_path / "run" / METRICS).write_bytes(b"\xff\n")
    for again, first in zip(both(tmp_path / "run", resume=True), whole, strict=True):
        assert told(again) == told(first)
        assert len(again.loss) == 3


@pytest.mark.parametrize("content", [b"", b"\xff{}", b"{", b"[1]", b"3", b"null", b"[" * 100_000])
def test_a_damaged_result_of_a_probe_names_the_way_on(tmp_path, content):
    folder = tmp_path / RUNS / "cell"
    folder.mkdir(parents=True)
    (folder / RESULT).write_bytes(content)
    with pytest.raises(AlignerProbeError, match=r"is damaged .* remove its folder and go on: --resume makes it again"):
        read_result(tmp_path, "cell")


def test_a_state_is_still_what_torch_load_reads(begun, copy):
    assert torch.load(copy / STATE, weights_only=True)["step"] == STOPPED - 1
