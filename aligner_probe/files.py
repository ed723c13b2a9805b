"""Writing without leaving halves behind, reading JSON from strangers, and the hash that names a file's content."""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError, CheckpointError

#: A configuration or a record is far smaller; a larger file is not read.
MAX_JSON_BYTES = 2**26
#: How files begin that an editor saved in UTF-16 or UTF-32.
OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(place: Path) -> int:
    """What the disk has left where `place` is, or would be."""
    there = next(one for one in (place.absolute(), *place.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """The content of a JSON file in UTF-8, with or without a byte order mark.

    Raises CheckpointError, one line that names the file, where it is missing, cannot be read, is larger than
    `max_bytes`, is in another encoding, is no JSON, or names a key of an object twice.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(max_bytes + 1)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read ({error.strerror}); expected a JSON file") from error
    if len(content) > max_bytes:
        raise CheckpointError(path, f"is larger than {max_bytes:,} bytes; expected a small JSON file")
    if content.startswith(OTHER_UNICODE):
        raise CheckpointError(path, "is in UTF-16 or UTF-32; expected UTF-8: convert it with `iconv -t UTF-8`")
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_named_once)
    except UnicodeDecodeError as error:
        raise CheckpointError(
            path, f"is no UTF-8 (byte {content[error.start]:#04x} at {error.start}); convert it with `iconv -t UTF-8`"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(path, f"is no JSON ({error}); copy it again, or mend it there") from error


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found


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
