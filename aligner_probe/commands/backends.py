"""The options that say where the runs of a probe are made: in processes of this machine, or on a Ray cluster."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands.options import Group, add_threads, positive, use_threads
from aligner_probe.errors import AlignerProbeError

if TYPE_CHECKING:
    from aligner_probe.jobs.backend import Backend


def add_backend(parser: Group) -> None:
    """Add --backend and the options of each backend; `backend_of` reads them."""
    parser.add_argument("--jobs", type=positive, metavar="N", help="number of processes (default: 2)")
    add_threads(parser, default="1")
    parser.add_argument(
        "--backend",
        choices=("processes", "ray"),
        default="processes",
        help="where the runs are made: in processes of this machine (the default), or on a Ray cluster",
    )
    parser.add_argument(
        "--ray-address",
        metavar="HOST:PORT",
        help="the head node of the cluster (default: the cluster of this machine)",
    )
    parser.add_argument(
        "--gpus-per-run", type=float, metavar="N", help="GPUs of the cluster for each run, which is then on cuda"
    )
    parser.add_argument("--device", help="for instance cuda (default: cpu)")


def backend_of(options: argparse.Namespace) -> "Backend":
    """The backend that the options ask for.

    Raises AlignerProbeError for an option of the other backend, and where the cluster cannot be reached.
    """
    use_threads(options.threads)
    return _processes(options) if options.backend == "processes" else _cluster(options)


def _processes(options: argparse.Namespace) -> "Backend":
    from aligner_probe.jobs.backend import Processes

    for option in ("ray_address", "gpus_per_run"):
        if getattr(options, option) is not None:
            raise AlignerProbeError(f"--{option.replace('_', '-')} is for --backend ray; add that, or leave it out")
    return Processes(options.jobs or 2)


def _cluster(options: argparse.Namespace) -> "Backend":
    if options.jobs is not None:
        raise AlignerProbeError("--jobs is for --backend processes; a cluster makes as many runs as it has room for")
    if options.threads is not None:
        raise AlignerProbeError("--threads is for --backend processes; a run on a cluster takes one CPU of it")
    if options.gpus_per_run and options.device is not None:
        raise AlignerProbeError(
            "--gpus-per-run puts runs on cuda, and what is done here on the CPU; leave out --device"
        )

    from aligner_probe.jobs.ray_tasks import RayTasks

    changes: dict[str, str] = {}
    if Path(options.model).is_dir():
        changes["base"] = str(Path(options.model).resolve())  # the nodes have other working folders
    if options.gpus_per_run:
        changes["device"] = "cuda"
    backend = RayTasks(options.ray_address, options.gpus_per_run or 0, changes)
    print(f"the Ray cluster has room for {backend.n_at_once()} runs at a time")
    return backend
