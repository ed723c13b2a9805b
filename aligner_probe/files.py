"""Files: writing that leaves no half-written file, reading JSON of unknown origin, and hashes of contents."""

import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligner_probe.errors import AlignerProbeError, CheckpointError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

#: A larger JSON file is not read. Configurations and records are far smaller.
MAX_JSON_BYTES = 2**26
#: The first bytes of files that an editor saved in UTF-16 or UTF-32.
OTHER_UNICODE = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """The free bytes of the disk on which `path` is, or would be."""
    there = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
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


def read_own_json(path: Path, form: str, *, what: str, expected: str) -> dict[str, Any]:
    """The content of a JSON file that this project wrote: an object whose "format" is `form`.

    `what` names the content and `expected` the file that is expected, in errors. Raises AlignerProbeError, one line,
    where `read_json` raises, and for other content.
    """
    try:
        content = read_json(path)
    except CheckpointError as error:
        raise AlignerProbeError(f"{path}: no {what} there (it {error.reason}); expected {expected}") from error
    if not isinstance(content, dict) or content.get("format") != form:
        raise AlignerProbeError(f"{path}: expected {form!r} as its format; make it again with this version")
    return content


def finite(value: float) -> float | None:
    """The number, or None for one that is not finite, which JSON cannot hold."""
    return value if math.isfinite(value) else None


def for_json(value: Any, of_number: Callable[[float], Any] = finite) -> Any:
    """A value as JSON has it: tuples are lists, and every float, however deep, is what `of_number` makes of it."""
    if isinstance(value, Mapping):
        return {name: for_json(one, of_number) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(one, of_number) for one in value]
    return of_number(value) if isinstance(value, float) else value


def storable(text: str) -> str:
    """A text with a question mark for each half of a character, which UTF-8 cannot hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return members


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make `folder` if it does not exist. If the block fails and `folder` is empty, remove it again."""
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if made and not any(folder.iterdir()):
            folder.rmdir()
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` under a temporary name beside `path`, then rename it, so that readers see the old or the new file.

    Raises AlignerProbeError where `path` cannot be written.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(path.parent) as stage:
            (stage / path.name).write_text(text, encoding="utf-8")
            (stage / path.name).replace(path)


#: How the names of folders begin in which something is being written. A killed process leaves one behind.
UNFINISHED = ".unfinished-"


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """Yield a hidden folder inside `parent`, which is removed afterwards; rename out of it what is to stay."""
    stage = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=parent))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a path to write a new file or folder to. It is renamed to `path` when the block ends without an error.

    If the block fails, nothing appears at `path`. Raises AlignerProbeError where `path` exists already, or cannot be
    written.
    """
    if path.exists():
        raise AlignerProbeError(f"{path} exists already; name another path, or remove it first")
    with writing_to(path), new_folder(path.parent), staging_folder(path.parent) as stage:
        yield stage / path.name
        (stage / path.name).replace(path)


@contextmanager
def held(lock: Path, taken: str) -> Iterator[None]:
    """Lock the file `lock` while the block runs. The system unlocks it however the process ends.

    Raises AlignerProbeError with the message `taken` where another process has locked it.
    """
    with writing_to(lock.parent):
        lock.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            _lock(handle)
        except OSError as error:
            raise AlignerProbeError(taken) from error
        yield
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    """Lock an open file for this process alone. Raises OSError where another process has locked it."""
    if sys.platform == "win32":
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Raise AlignerProbeError, one line, if the system refuses to write (permissions, full disk, a file in the way)."""
    try:
        yield
    except OSError as error:
        # os.strerror leaves out the temporary names, which a user does not know.
        said = os.strerror(error.errno) if error.errno else str(error)
        raise AlignerProbeError(
            f"cannot write to {path}: {said}; nothing was changed there. Name another path, or make room"
        ) from error
