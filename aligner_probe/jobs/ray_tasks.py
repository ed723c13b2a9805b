"""Jobs as tasks of a Ray cluster. They are made on its nodes, and this process alone writes their results to OUT.

A node needs the same Python packages as this process and no shared file system. The results that a job reads travel to
it, and the job's folders travel back, so of two attempts at a job only one is written. A task whose worker or node dies
is tried again. On the same node it goes on from the state that it left there; on another node it begins anew, to the
same results. A base model that is named by a folder must be in that folder on every node.
"""

import functools
import logging
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

#: How often a task is tried again after its worker or node has died.
RETRIES = 3
#: Seconds that a cluster has to answer. Ray itself would wait for two minutes.
PATIENCE = 5
#: Seconds that a task has to stop by itself and to clean up, on a node that may be busy.
STOPPING = 20
#: Seconds after which a task that has not stopped is asked again.
ASKED_AGAIN = 2
#: The folders of a finished job: by the folder's name, its files by their path.
Folders = dict[str, dict[str, bytes]]


@dataclass(frozen=True)
class RayTasks:
    """A Ray cluster as a backend. Each job has one CPU and `gpus` GPUs.

    Args:
        address: host:port of the head node. By default it is RAY_ADDRESS, the cluster that this machine belongs to, or
            a new cluster of this machine alone.
        gpus: GPUs of each job; below 1, jobs share a GPU.
        changes: fields of what jobs share that have other values on the nodes.

    Raises:
        AlignerProbeError: `gpus` is impossible. When the cluster is first needed: Ray is not installed, no cluster
            answers, or no node has room for a job.
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
        room = sum(self._room(node) for node in nodes)
        if not room:
            has = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise AlignerProbeError(
                f"no node of the Ray cluster has room for a run, which takes 1 CPU and {self.gpus:g} GPUs: they have "
                f"{has}; start one that has it (of a cluster that grows by itself, the first), or change --gpus-per-run"
            )
        return room

    def make(
        self, make: Make, shared: Shared, jobs: Sequence[Any], out: Path
    ) -> Iterator[tuple[Any, AlignerProbeError | None]]:
        """As `Backend.make`. Any other error than an AlignerProbeError is a bug: it is raised, and not tried again."""
        self.n_at_once()  # raises where no node has room; Ray itself would wait for such a node for ever
        ray = self._ray
        task = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES)(_on_node)
        # `replace` copies it without the models that it has loaded: each worker loads its own.
        where, scratch = ray.put(replace(shared, **self.changes)), f"aligner-probe-{uuid.uuid4().hex}"
        waiting = {
            # Inside a list Ray does not replace a reference by its value: a worker fetches it once for all its tasks.
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
        """Ask tasks to stop, so that they clean up; kill those that do not."""
        ray, until = self._ray, time.monotonic() + STOPPING
        while left and time.monotonic() < until:
            # They are asked repeatedly, because a task that is on its way to its worker does not receive it.
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
            # A cluster that is started here reports nothing to the makers of Ray.
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            address = self.address or os.environ.get("RAY_ADDRESS")
            try:
                _check_answers(address)
                ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
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
        """Write the folders that a task returned, or return the error of a task that failed."""
        errors = self._ray.exceptions
        try:
            result = self._ray.get(done)
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
        return result if isinstance(result, AlignerProbeError) else tried(_write, out, result)


def _check_answers(address: str | None) -> None:
    """Raise OSError where no process listens at host:port; Ray checks the other forms of an address."""
    host, _, port = (address or "").rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _given(job: Any, out: Path) -> dict[str, bytes]:
    """The results that a job reads, by job id: those of the jobs in its `after`."""
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
    """What a task does on its node. `scratch` is a folder name that only the attempts at this job share."""
    here = versions(PACKAGES)
    if here != wanted:
        differing = ", ".join(f"{name} {here[name]}, not {wanted[name]}" for name in here if here[name] != wanted[name])
        return AlignerProbeError(
            f"node {socket.gethostname()} has {differing}; the same numbers take the same packages on every node"
        )
    set_threads(1)
    folder = Path(tempfile.gettempdir()) / scratch
    # Ray asks a task to stop by an interrupt, which workers of a cluster that was started in the background ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return tried(_made, _fetched(*where), (make, job, given, folder))
    finally:
        # A killed worker does not come here, so the next attempt finds its state. Another request to stop must not
        # interrupt the cleaning up.
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
        # An earlier attempt that died left its state. Where it also left finished folders it died between several.
        if any(not one.name.startswith(".") and one.name not in given for one in runs.glob("*")):
            shutil.rmtree(folder)
        shutil.rmtree(runs, ignore_errors=True)
        for name, content in given.items():
            _unpack({RESULT: content}, runs / name)
    make(shared, job, out=folder)
    return {made.name: _packed(made) for made in runs.iterdir() if made.name not in given}


def _packed(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
