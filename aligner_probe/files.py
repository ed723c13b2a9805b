"""Writing without leaving halves behind, and the hash that names a file's content."""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aligner_probe.errors import AlignerProbeError


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(place: Path) -> int:
    """What the disk has left where `place` is, or would be."""
    there = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make `folder` where it is not there; if the block fails and left nothing in it, it goes again."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` under a temporary name beside `path`, then rename: readers see the old file or the new one.

    Raises AlignerProbeError where the place cannot be written.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(path.parent) as stage:
            (stage / path.name).write_text(text, encoding="utf-8")
            (stage / path.name).replace(path)


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A hidden folder inside `parent` that is gone afterwards, whatever happened; rename out of it what is to stay."""
    stage = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=parent))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def whole(place: Path) -> Iterator[Path]:
    """Where to write a new file or folder: it is named `place` when the block ends, or never appears.

    Raises AlignerProbeError where there is something already, or where the place cannot be written.
    """
    if place.exists():
        raise AlignerProbeError(f"{place} exists already; name another place, or remove it first")
    with writing_to(place), new_folder(place.parent), staging_folder(place.parent) as stage:
        yield stage / place.name
        (stage / place.name).replace(place)


@contextmanager
def held(lock: Path, taken: str) -> Iterator[None]:
    """Hold a lock file inside the block; the system lets go of it however the process ends.

    Raises AlignerProbeError, saying `taken`, where another process holds it.
    """
    with writing_to(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlignerProbeError(taken) from error
        yield
    finally:
        os.close(handle)


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write (permissions, full disk, a file in the way) into one line."""
    try:
        yield
    except OSError as error:
        # os.strerror leaves out the temporary names, which would only puzzle.
        said = os.strerror(error.errno) if error.errno else str(error)
        raise AlignerProbeError(
            f"cannot write to {place}: {said}; nothing was changed there. Name another place, or make room"
        ) from error
