"""Jobs as tasks of a Ray cluster: made on its nodes, written here.

A node needs the same Python packages as this process and no more: what a job reads travels to it, the job's folder
travels back, and this process alone writes to OUT. So no file system is shared, and of two tries of a job one is
written. A task whose worker or node dies is tried again: on the same node it goes on from the state it left there, on
another it begins anew, to the same numbers. A base that is named by a folder must be in that place on every node.
"""

import functools
import os
import shutil
import signal
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import whole, writing_to
from aligner_probe.jobs.backend import Make
from aligner_probe.jobs.folder import RESULT, RUNS
from aligner_probe.jobs.pool import Shared, tried
from aligner_probe.threads import set_threads
from aligner_probe.training.provenance import PACKAGES
from aligner_probe.versions import versions

#: How often a task is tried again after its worker or node died.
RETRIES = 3
#: Seconds for a cluster to answer, where Ray would wait for two minutes.
PATIENCE = 5
#: Seconds that a run has to stop by itself, and clean up, on a node that may be busy.
STOPPING = 20
#: Seconds after which a run that has not stopped is asked again.
ASKED_AGAIN = 2
#: A finished job's folders: files by path, by the folder's name.
Folders = dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class RayTasks:
    """A Ray cluster, a CPU and `gpus` GPUs (a share below 1 lets runs share one) for each job at a time.

    `address` is host:port of its head node; without one RAY_ADDRESS, the cluster that this machine is in, or a new one
    of this machine alone. `changes` are fields of what jobs share that are different on the nodes. Raises
    AlignerProbeError for a number of GPUs that cannot be, and, as soon as the cluster is needed, where Ray is not
    installed, no cluster answers or none of its nodes has room for a job.
    """

    address: str | None = None
    gpus: int | float = 0
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (0 <= self.gpus < 1 or (self.gpus >= 0 and self.gpus % 1 == 0)):
            raise AlignerProbeError(f"{self.gpus:g} GPUs a run; expected a whole number, or a share of one below 1")

    @property
    def travels(self) -> bool:
        return True

    def n_at_once(self) -> int:
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        found = sum(self._room(node) for node in nodes)
        if not found:
            has = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise AlignerProbeError(
                f"no node of the Ray cluster has room for a run, which takes 1 CPU and {self.gpus:g} GPUs: they have "
                f"{has}; start one that has it (of a cluster that grows by itself, the first), or change --gpus-per-run"
            )
        return found

    def make(
        self, make: Make, shared: Shared, jobs: Sequence[Any], out: Path
    ) -> Iterator[tuple[Any, AlignerProbeError | None]]:
        """As `Backend.make`. What is no AlignerProbeError and no death is a bug: it is raised, not tried again."""
        self.n_at_once()  # raises; Ray itself would wait for such a node for ever
        ray = self._ray
        task = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES)(_on_node)
        # Without what was loaded: each worker loads its own.
        where, scratch = ray.put(replace(shared, **self.changes)), f"aligner-probe-{uuid.uuid4().hex}"
        waiting = {
            # In a list, a reference is not replaced by what it refers to: a worker fetches that once for all its tasks.
            task.remote(make, [where], job, _given(job, out), f"{scratch}-{job.id}", versions(PACKAGES)): job
            for job in jobs
        }
        try:
            while waiting:
                [done], _ = ray.wait(list(waiting), num_returns=1)
                yield waiting.pop(done), self._written(done, out)
        finally:
            self._stop(list(waiting))

    def _stop(self, left: list[Any]) -> None:
        """Ask tasks to stop, which cleans up; then make them."""
        ray, until = self._ray, time.monotonic() + STOPPING
        while left and time.monotonic() < until:
            # Again, since a task that is on its way to its worker does not hear it.
            for one in left:
                ray.cancel(one, force=False)
            _, left = ray.wait(left, num_returns=len(left), timeout=ASKED_AGAIN)
        for one in left:
            ray.cancel(one, force=True)
        if left:
            ray.wait(left, num_returns=len(left), timeout=STOPPING)

    @cached_property
    def _ray(self) -> ModuleType:
        try:
            import ray
        except ImportError as error:
            raise AlignerProbeError(
                'Ray is not installed; `pip install "aligner-probe[ray]"`, or leave out --backend ray'
            ) from error
        if not ray.is_initialized():
            # Of a cluster that is started here: nothing is reported to Ray's makers.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            address = self.address or os.environ.get("RAY_ADDRESS")
            try:
                _check_answers(address)
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            except (OSError, ValueError, RuntimeError) as error:
                raise AlignerProbeError(
                    f"no Ray cluster at {address or 'this machine'} ({str(error) or type(error).__name__}); start one "
                    "(`ray start --head`) and name host:port as it prints them: --ray-address HOST:PORT"
                ) from error
        return ray

    def _room(self, resources: dict[str, float]) -> int:
        by_cpu = int(resources.get("CPU", 0))
        return min(by_cpu, int(resources.get("GPU", 0) / self.gpus)) if self.gpus else by_cpu

    def _written(self, done: Any, out: Path) -> AlignerProbeError | None:
        """Write what a task gave, or return why there is nothing."""
        errors = self._ray.exceptions
        try:
            found = self._ray.get(done)
        except errors.RayTaskError as error:
            if not (isinstance(error.cause, errors.RaySystemError) or "failed to import" in str(error.cause)):
                raise
            said = str(error.cause).strip().splitlines()[-1]
            return AlignerProbeError(f"a node cannot load a run ({said}); every node needs this process's packages")
        except errors.RayError as error:
            said = str(error).strip().splitlines()[0]
            return AlignerProbeError(
                f"its worker or node died, and again in {RETRIES} more tries, perhaps for want of memory ({said}); go "
                "on with the same command and --resume"
            )
        return found if isinstance(found, AlignerProbeError) else tried(_write, out, found)


def _check_answers(address: str | None) -> None:
    """Raises OSError where nobody listens at host:port; other forms of an address are Ray's to judge."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _given(job: Any, out: Path) -> dict[str, bytes]:
    """Results that a job reads: those of the jobs it comes after."""
    files = {name: out / RUNS / name / RESULT for name in getattr(job, "after", ())}
    return {name: file.read_bytes() for name, file in files.items() if file.is_file()}


def _write(out: Path, folders: Folders) -> None:
    for name, files in folders.items():
        with whole(out / RUNS / name) as folder:
            _unpack(files, folder)


def _unpack(files: dict[str, bytes], folder: Path) -> None:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def _on_node(
    make: Make, where: list, job: Any, given: dict[str, bytes], scratch: str, wanted: dict[str, str]
) -> Folders | AlignerProbeError:
    """What a task does on its node; `scratch` is a name that only the tries of this job have in common."""
    here = versions(PACKAGES)
    if here != wanted:
        differing = ", ".join(f"{name} {here[name]}, not {wanted[name]}" for name in here if here[name] != wanted[name])
        return AlignerProbeError(
            f"node {socket.gethostname()} has {differing}; the same numbers take the same packages on every node"
        )
    set_threads(1)
    folder = Path(tempfile.gettempdir()) / scratch
    # Workers of a cluster that was started in the background ignore interrupts, by which Ray asks a task to stop.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return tried(_made, _fetched(*where), (make, job, given, folder))
    finally:
        # A killed worker does not get here: the next try finds its state. To be asked again must not break this off.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)


@functools.lru_cache(maxsize=1)
def _fetched(where: Any) -> Shared:
    import ray

    return ray.get(where)


def _made(shared: Shared, task: tuple[Make, Any, dict[str, bytes], Path]) -> Folders:
    make, job, given, folder = task
    runs = folder / RUNS
    with writing_to(folder):
        # An earlier try, which died, left state to go on from; or finished runs, then in the middle of several.
        if any(not one.name.startswith(".") and one.name not in given for one in runs.glob("*")):
            shutil.rmtree(folder)
        shutil.rmtree(runs, ignore_errors=True)
        for name, content in given.items():
            _unpack({RESULT: content}, runs / name)
    make(shared, job, out=folder)
    return {made.name: _packed(made) for made in runs.iterdir() if made.name not in given}


def _packed(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
