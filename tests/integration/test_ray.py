"""Jobs on a local Ray cluster of two nodes: killed workers, a lost node; nothing lost, nothing made twice."""

import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import micro
import probes
import pytest
from conftest import ROOT
from ray_jobs import Dies, Job, Shared, die, lines, lose_the_node, make, slow

from aligner_probe.commands import probe as command
from aligner_probe.commands import run as run_command
from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs import ray_tasks
from aligner_probe.jobs.folder import RESULT, RUNS, make_all, unfinished
from aligner_probe.jobs.ray_tasks import RayTasks
from aligner_probe.probing import run
from aligner_probe.probing.batches import jobs
from aligner_probe.probing.probe import carry_out_probe, new_probe, with_batches
from aligner_probe.versions import versions

INSTALL = 'Ray is not installed; pip install "aligner-probe[ray]"'
STORE = 80 * 2**20


@pytest.fixture(scope="module")
def scratch():
    """Where the nodes keep what they keep; its path is short, since sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def cluster(scratch):
    """The address of two nodes of one CPU each."""
    with cluster_of(1, 1, scratch=scratch) as address:
        yield address


@contextmanager
def cluster_of(*cpus, scratch):
    """The address of a cluster with so many CPUs on its head and on each further node."""
    ray = pytest.importorskip("ray", reason=INSTALL)
    from ray.cluster_utils import Cluster

    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("TMPDIR", str(scratch))
        # The workers import ray_jobs.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]))
        head, *others = ({"num_cpus": n, "object_store_memory": STORE, "include_dashboard": False} for n in cpus)
        # As where it is started in the background: its workers then ignore interrupts.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            for other in others:
                made.add_node(**other)
            signal.signal(signal.SIGINT, before)
            yield made.address
        finally:
            ray.shutdown()
            made.shutdown()


@pytest.mark.slow
def test_a_killed_job_goes_on_and_a_wrong_one_is_not_tried_again(cluster, scratch, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_tasks, "RETRIES", 1)
    backend = RayTasks(cluster, changes={"note": "as on a node"})
    assert backend.n_at_once() == 2
    out, shared = tmp_path / "out", Shared(str(tmp_path / "log"))
    make_all([Job("first")], make, shared, out, backend, show_progress=False)
    wanted = [Job("first"), Job("killed", ("first",)), Job("wrong"), Job("plain", ("first",))]
    with pytest.raises(AlignerProbeError, match=r"1 of 4 runs failed, .* the first, wrong: wrong: no checkpoint"):
        make_all(wanted, make, shared, out, backend, show_progress=False)
    assert Counter(lines(shared.log)) == {"first": 1, "killed": 2, "wrong": 1, "plain": 1}
    assert unfinished(wanted, out) == [wanted[2]]
    results = {job.id: json.loads((out / RUNS / job.id / RESULT).read_text()) for job in wanted if job.id != "wrong"}
    assert {name: one["state"] for name, one in results.items()} == {
        "first": "began anew",
        "killed": "half done",
        "plain": "began anew",
    }
    assert results["killed"]["read"] == results["plain"]["read"] == ["first"]
    assert {one["note"] for one in results.values()} == {"as on a node"}
    assert {file.read_bytes() for file in out.glob(f"{RUNS}/*/deep/numbers.bin")} == {bytes(range(256))}
    assert not list(scratch.glob("aligner-probe-*"))

    with pytest.raises(AlignerProbeError, match="its worker or node died, and again in 1 more tries"):
        make_all([*wanted[:2], Job("doomed")], make, shared, out, backend, show_progress=False)
    assert Counter(lines(shared.log)) == {"first": 1, "killed": 2, "wrong": 1, "plain": 1, "doomed": 2}


@pytest.mark.slow
def test_a_run_that_is_broken_off_leaves_nothing_under_way(cluster, scratch, tmp_path):
    # Several times: in two of five, "waiting" is on its way to a worker when it is first asked to stop.
    for n in range(6):
        shared = Shared(str(tmp_path / f"log{n}"))
        made = RayTasks(cluster).make(slow, shared, [Job("quick"), Job("long"), Job("waiting")], tmp_path / f"{n}")
        assert next(made) == (Job("quick"), None)
        made.close()
        # The worker cleans up when it is interrupted, which the driver may hear of a moment before.
        until = time.monotonic() + 10
        while left := [*scratch.glob("aligner-probe-*-long"), *scratch.glob("aligner-probe-*-waiting")]:
            assert time.monotonic() < until, left
            time.sleep(0.1)
    other = tmp_path / "other"
    make_all([Job("a"), Job("b")], make, shared, other, RayTasks(cluster), show_progress=False)
    assert not unfinished([Job("a"), Job("b")], other)


@pytest.mark.slow
def test_packages_differ_on_a_node(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_tasks, "versions", lambda packages: versions(packages) | {"torch": "0.4"})
    with pytest.raises(AlignerProbeError, match=r"node .* has torch .*, not 0.4; the same numbers"):
        make_all([Job("a")], make, Shared(str(tmp_path / "log")), tmp_path, RayTasks(), show_progress=False)
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
def test_a_package_is_missing_on_the_nodes(cluster, tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("def make(shared, job, *, out): ...")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    with pytest.raises(AlignerProbeError, match=r"cannot load a run .*No module named 'only_here'.*; every node needs"):
        make_all([Job("a")], only_here.make, Shared(""), tmp_path, RayTasks(cluster), show_progress=False)


@pytest.mark.slow
def test_no_node_with_so_many_gpus_is_said_before_anything_waits(cluster, tmp_path):
    backend = RayTasks(cluster, gpus=2)
    with pytest.raises(
        AlignerProbeError, match=r"no node .* takes 1 CPU and 2 GPUs: they have 1 CPUs and 0 GPUs; 1 CPUs"
    ):
        make_all([Job("a")], make, Shared(str(tmp_path / "log")), tmp_path, backend, show_progress=False)


@pytest.mark.parametrize(
    ("gpus", "resources", "room"),
    [
        (0.0, {"CPU": 3.0}, 3),
        (0, {"GPU": 2.0}, 0),
        (1, {"CPU": 8.0, "GPU": 2.0}, 2),
        (0.5, {"CPU": 8.0, "GPU": 2.0}, 4),
        (2, {"CPU": 8.0, "GPU": 3.0}, 1),
        (1, {"CPU": 8.0}, 0),
    ],
)
def test_room_on_a_node(gpus, resources, room):
    assert RayTasks(gpus=gpus)._room(resources) == room


def found(out):
    """All runs of a finished probe by file: results without what a clock or a checkout says, adapters' numbers."""
    files = {}
    for file in sorted((out / RUNS).rglob("*")):
        name = str(file.relative_to(out))
        if file.name == RESULT:
            result = json.loads(file.read_text())
            files[name] = {key: value for key, value in result.items() if key not in ("seconds", "provenance")}
        elif file.is_file():
            files[name] = None if file.suffix == ".json" else file.read_bytes()
    return files


@pytest.mark.slow
@pytest.mark.parametrize("how", [die, lose_the_node], ids=lambda how: how.__name__)
def test_a_probe_is_the_same_by_a_cluster_that_loses_a_worker(how, scratch, tmp_path, monkeypatch):
    def probe():
        arms = ("aligner-1", "lora-8", "reference-shuffled")
        budget = replace(probes.TINY, tuned=True, steps=8, arms=arms, seeds=((0, 1), (1, 0)))
        return with_batches(new_probe(str(micro.base()), probes.styled(), budget=budget))

    here = carry_out_probe(probe(), tmp_path / "here", n_processes=2, show_progress=False)
    log = tmp_path / "log"
    made = probe()
    ids = [job.id for wave in made.plan.waves() for job in jobs(wave, tmp_path)]
    [dies] = [name for name in ids if name.startswith("aligner-1_start")]  # two runs in a batch
    monkeypatch.setattr(run, "carry_out", Dies(str(log), dies, how))
    with cluster_of(0, 1, 1, scratch=scratch) as address:  # the head makes nothing, so that it is none that is lost
        backend = RayTasks(address)
        there = carry_out_probe(probe(), tmp_path / "there", backend=backend, show_progress=False)
        again = carry_out_probe(probe(), tmp_path / "there", backend=backend, resume=True, show_progress=False)

    assert Counter(lines(log)) == {
        **{f"began {name}": 2 if name == dies else 1 for name in ids},
        **{f"made {name}": 1 for name in ids},
        f"died {dies}": 1,
    }
    assert probes.numbers(there.report) == probes.numbers(here.report)
    assert found(tmp_path / "there") == found(tmp_path / "here")
    assert any(name.endswith(".safetensors") for name in found(tmp_path / "there"))

    assert probes.numbers(again.report) == probes.numbers(here.report)


def test_without_ray_the_command_says_how_to_get_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    task = probes.jsonl(tmp_path / "styled.jsonl", probes.styled())
    argv = [
        "run",
        "--task",
        str(task),
        "--model",
        str(micro.base()),
        "--out",
        str(tmp_path / "out"),
        "--backend",
        "ray",
    ]
    assert run_command(command.main, argv) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert error == 'error: Ray is not installed; `pip install "aligner-probe[ray]"`, or leave out --backend ray'
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ray-address", "127.0.0.1:6379"], "--ray-address is for --backend ray"),
        (["--gpus-per-run", "1"], "--gpus-per-run is for --backend ray"),
        (["--backend", "ray", "--jobs", "3"], "--jobs is for --backend processes"),
        (["--backend", "ray", "--gpus-per-run", "1.5"], "1.5 GPUs a run; expected a whole number, or a share"),
        (["--backend", "ray", "--gpus-per-run", "-1"], "-1 GPUs a run; expected"),
    ],
)
def test_options_that_do_not_fit_together(options, said, tmp_path, capsys):
    assert run_command(command.main, ["run", "--task", str(tmp_path / "none.jsonl"), *options]) == 2
    assert said in capsys.readouterr().err


def test_an_address_where_nobody_answers():
    ray = pytest.importorskip("ray", reason=INSTALL)
    if ray.is_initialized():
        ray.shutdown()
    for address in ("127.0.0.1:1", "nonsense"):
        with pytest.raises(AlignerProbeError, match=f"no Ray cluster at {address} .* --ray-address HOST:PORT"):
            RayTasks(address).n_at_once()
