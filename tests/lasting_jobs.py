"""Work for processes that tests interrupt. The processes import this module, so it imports nothing heavy itself."""

import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path

#: Seconds for a process to come as far as it has to, on a machine that is busy with other things.
PATIENCE = 240


@dataclass(frozen=True)
class Folder:
    """What the workers of a test share."""

    path: Path


def lasting(shared, job):
    """A job that makes what tqdm makes, says that it is there, and does not end by itself."""
    from tqdm.auto import tqdm

    with tqdm(total=1, disable=True):
        own = multiprocessing.get_context("spawn").Lock()  # a semaphore of its own
        (shared.path / f"job-{job}").touch()
        time.sleep(2 * PATIENCE)
        own.acquire()
