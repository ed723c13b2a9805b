"""Ctrl-C: exit code 130, one line that says how to go on, no traceback of a worker and no leaked semaphore."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import learning
import pytest
from conftest import ROOT
from lasting_jobs import PATIENCE

from aligner_probe.commands import INTERRUPTED, going_on, messages, run
from aligner_probe.errors import AlignerProbeError


def interrupted(command, until, tmp_path, number=signal.SIGINT):
    """Exit code and output of a command that is interrupted, with all its processes as a terminal does it, once `until`
    holds."""
    said = tmp_path / "said"
    with said.open("w") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            end = time.monotonic() + PATIENCE
            while not until(said.read_text()) and started.poll() is None and time.monotonic() < end:
                time.sleep(0.1)
            assert started.poll() is None, said.read_text()
            os.killpg(started.pid, number)
            code = started.wait(timeout=PATIENCE)
        finally:
            if started.poll() is None:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
    return code, said.read_text()


def assert_clean(said):
    assert "Traceback" not in said
    assert "leaked" not in said
    assert said.count("interrupted;") == 1


POOL = """
import sys
from pathlib import Path
from lasting_jobs import Folder, lasting
from aligner_probe.commands import going_on, run
from aligner_probe.jobs.pool import each

def main(argv):
    with going_on(lambda: "give --resume"):
        list(each(lasting, Folder(Path(argv[0])), [1, 2, 3], 2))
    return 0

if __name__ == "__main__":
    sys.exit(run(main, sys.argv[1:]))
"""


@pytest.fixture
def pool_command(tmp_path, monkeypatch):
    (tmp_path / "command.py").write_text(POOL)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
    return [sys.executable, str(tmp_path / "command.py"), str(tmp_path)]


@pytest.mark.slow
def test_worker_processes_end_without_a_trace(pool_command, tmp_path):
    both = [tmp_path / "job-1", tmp_path / "job-2"]
    code, said = interrupted(pool_command, lambda _: all(file.exists() for file in both), tmp_path)
    assert code == INTERRUPTED
    assert_clean(said)
    assert "interrupted; give --resume" in said


@pytest.mark.slow
def test_worker_processes_that_are_still_starting_end_without_a_trace(pool_command, tmp_path):
    """Each worker imports for seconds, during which the interrupt used to end it with a traceback."""
    one = tmp_path / "job-1"
    # The second worker is at its imports while the parent waits; both are started by then.
    code, said = interrupted(pool_command, lambda _: _n_children(pool_command[1]) >= 2 or one.exists(), tmp_path)
    assert code == INTERRUPTED
    assert_clean(said)


def _n_children(script):
    """Processes that multiprocessing has spawned from a script, by /proc."""
    found = 0
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = place.read_bytes().decode(errors="replace").split("\0")
            parent = int(Path(place.parent, "stat").read_text().rsplit(")", 1)[1].split()[1])
            of = Path(f"/proc/{parent}/cmdline").read_bytes().decode(errors="replace")
        except (OSError, ValueError):
            continue
        found += any("spawn_main" in word for word in words) and script in of
    return found


def test_run_says_how_to_go_on(capsys):
    def main(argv):
        with going_on(lambda: "OUT keeps it: go on with --resume"):
            raise KeyboardInterrupt

    assert run(main, []) == INTERRUPTED
    assert capsys.readouterr().err.strip() == messages.INTERRUPTED.format(said="OUT keeps it: go on with --resume")

    def other(argv):
        raise KeyboardInterrupt

    assert run(other, []) == INTERRUPTED
    assert capsys.readouterr().err.strip() == messages.INTERRUPTED.format(said=messages.NOTHING_LEFT)


def test_run_leaves_the_process_as_it_was():
    before = signal.getsignal(signal.SIGTERM), warnings.formatwarning
    seen = []

    def main(argv):
        seen.append((signal.getsignal(signal.SIGTERM), warnings.formatwarning))
        return 0

    assert run(main, []) == 0
    assert seen[0][0] is not before[0]
    assert seen[0][1] is not before[1]
    assert (signal.getsignal(signal.SIGTERM), warnings.formatwarning) == before


def test_errors_pass_through_what_says_how_to_go_on():
    with pytest.raises(AlignerProbeError, match="as it is"), going_on(lambda: "no"):
        raise AlignerProbeError("as it is")


@pytest.mark.parametrize("state_is_there", [True, False])
def test_train_names_resume_where_a_state_is_saved(tmp_path, monkeypatch, capsys, state_is_there):
    import micro

    from aligner_probe.commands import train

    rows = [{"prompt": one.prompt, "completion": one.completion} for one in learning.task(12).examples]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def stop(*_, out, **__):
        out.mkdir()
        if state_is_there:
            (out / "state.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("aligner_probe.training.fit", stop)
    command = ["--model", micro.base(), "--task", tmp_path / "task.jsonl", "--out", tmp_path / "run"]
    assert run(train.main, [*map(str, command), "--start-layer", "1", "--steps", "4"]) == INTERRUPTED
    said = capsys.readouterr().err
    kept = messages.STATE_KEPT.format(out=tmp_path / "run")
    expected = kept if state_is_there else messages.NO_STATE.format(steps=50)
    assert expected in said
    assert "\n" not in said[said.index("interrupted;") :].rstrip()


@pytest.mark.slow
def test_a_probe_names_resume_and_leaks_nothing(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "aligner_probe.probe", "run", "--task", "panel:style_pirate", "--budget", "quick"]
    command += ["--out", str(out)]
    # Once its workers train: each keeps what it goes on from in work/.
    code, said = interrupted(command, lambda _: len(list((out / "work").glob("*/*"))) >= 2, tmp_path)
    assert code == INTERRUPTED
    assert_clean(said)
    assert messages.CELLS_KEPT_RESUME.format(out=out) in said
