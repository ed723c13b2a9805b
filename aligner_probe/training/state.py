"""The folder of a training run. Its files are complete at every moment, so a run that is killed can always be resumed.

`metrics.jsonl` has one line per step. `state.pt` has the parameters, optimiser, progress and metrics of the last saved
step, and is replaced as a whole. `lock` keeps a second run out; the system releases it however the first one ends.

A run is resumed from `state.pt` alone. `metrics.jsonl` is written again from it, so it does no harm if that file is
lost or damaged. `state.pt` is what `torch.save` writes, and it ends with the SHA-256 of everything before, as the
comment of its zip archive. A file whose content does not match is refused. States of older versions have neither
checksum nor metrics: a warning says so, and for them `metrics.jsonl` must be complete.
"""

import hashlib
import io
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.files import held, staging_folder, writing_to
from aligner_probe.training.recipe import as_completed, options_of

STATE, METRICS, LOCK = "state.pt", "metrics.jsonl", "lock"
#: Bytes of a SHA-256 in hexadecimal, of the end record of a zip archive, and what such a record begins with.
DIGEST, END, END_BEGINS = 64, 22, b"PK\x05\x06"


class RunFolder:
    """Metrics and state of one training run, on disk where `folder` is given and nowhere else otherwise."""

    def __init__(self, folder: Path | None, identity: dict[str, Any], *, resume: bool):
        self.folder = folder
        self.identity = json.loads(json.dumps(identity))  # as it will be read back: tuples as lists
        self.metrics: list[dict[str, Any]] = []
        self.loaded: dict[str, Any] | None = None
        if folder is None:
            return
        self._is_new = not folder.exists()
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
        if (folder / STATE).exists() and not resume:
            raise AlignerProbeError(
                f"{folder} holds a run already; go on with it by --resume (resume=True), or name another folder"
            )

    @contextmanager
    def locked(self) -> Iterator["RunFolder"]:
        """Hold the folder; what an earlier run left is read inside. A new one goes again where nothing is recorded.

        Raises AlignerProbeError where another run holds it, where it was begun with other options, or where its state
        is damaged or, written by an older version, without the metrics of all its steps.
        """
        if self.folder is None:
            yield self
            return
        taken = f"another run is writing to {self.folder}; wait for it, or name another folder"
        with held(self.folder / LOCK, taken):
            try:
                self._load()
                yield self
            except BaseException:
                if self._is_new and not self.metrics:
                    self._remove()
                raise

    def _load(self) -> None:
        assert self.folder is not None
        path = self.folder / STATE
        if not path.exists():
            self._write_metrics()
            return
        state, before = _read(path)
        if _checksum_fits(path) is None:
            warnings.warn(
                f"{path} was written by an older version and has no checksum, so damage in it may not be noticed",
                AlignerProbeWarning,
                stacklevel=2,
            )
        differ = [said for key in self.identity for said in _differences(key, before.get(key), self.identity[key])]
        if differ:
            then, now = before.get("recipe"), self.identity.get("recipe")
            again = options_of(then, now) if isinstance(then, dict) and isinstance(now, dict) else ""
            raise AlignerProbeError(
                f"{self.folder} was begun with {', '.join(differ)}; resume with the same options"
                f"{again and ', ' + again}, or name another folder"
            )
        self.loaded = state
        self.metrics = state["metrics"] if "metrics" in state else _metrics_beside(path, state["step"])
        self._write_metrics()

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Around what reads `loaded`: an error there means a state that has not what a state has.

        Raises AlignerProbeError in its place. Only states without a checksum can get here.
        """
        try:
            yield
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            if self.folder is None:
                raise
            raise _damaged(self.folder / STATE, type(error).__name__) from error

    def record(self, row: dict[str, Any]) -> None:
        """Add a line to the metrics."""
        self.metrics.append(row)
        if self.folder is not None:
            with writing_to(self.folder), (self.folder / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def save(self, state: dict[str, Any]) -> None:
        """Replace the saved state; a full disk leaves the old one."""
        if self.folder is None:
            return
        # Into memory first: on a full disk torch's own writer fails with an error that does not say so.
        content = io.BytesIO()
        more = {"identity": json.dumps(self.identity), "metrics": json.dumps(self.metrics)}
        torch.save(state | more, content)
        _add_checksum(content)
        with writing_to(self.folder), staging_folder(self.folder) as stage:
            (stage / STATE).write_bytes(content.getbuffer())
            (stage / STATE).replace(self.folder / STATE)

    def _remove(self) -> None:
        """Leave no folder behind of a run that never began."""
        assert self.folder is not None
        for name in (METRICS, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def _write_metrics(self) -> None:
        assert self.folder is not None
        with writing_to(self.folder), staging_folder(self.folder) as stage:
            (stage / METRICS).write_text("".join(json.dumps(row) + "\n" for row in self.metrics), encoding="utf-8")
            (stage / METRICS).replace(self.folder / METRICS)


def lower_layers_kept(folder: Path) -> bool | None:
    """Whether the run in a folder, or the runs of its batch, keep lower layers; None where none was begun.

    Raises AlignerProbeError where the state is damaged.
    """
    if not (folder / STATE).exists():
        return None
    identity = _read(folder / STATE, mmap=True)[1]  # without its tensors
    return identity.get("runs", [identity])[0].get("execution", {}).get("lower_layers")


def threads_recorded(folder: Path) -> int | None:
    """The number of CPU threads that the run in a folder was saved with; None where an older version did not record it.

    Raises AlignerProbeError where the state is damaged.
    """
    return _read(folder / STATE, mmap=True)[0].get("threads")


def _read(path: Path, **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A saved state, its metrics as rows, and its identity. Raises AlignerProbeError where it is damaged."""
    if _checksum_fits(path) is False:
        raise _damaged(path, "its checksum is not that of its content")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, **how)
        int(state["step"])
        if "metrics" in state:
            state["metrics"] = [dict(row) for row in json.loads(state["metrics"])]
        return state, _completed(dict(json.loads(state["identity"])))
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ... on damaged files
        raise _damaged(path, type(error).__name__) from error


def _completed(identity: dict[str, Any]) -> dict[str, Any]:
    """An identity, or those of a shared batch, with what an older version did not write down of its recipe."""
    for one in identity.get("runs", [identity]):
        if isinstance(one, dict) and isinstance(one.get("recipe"), dict):
            one["recipe"] = as_completed(one["recipe"])
    return identity


def _damaged(path: Path, why: str) -> AlignerProbeError:
    return AlignerProbeError(
        f"{path} is damaged, or no saved state of a run ({why}); put a copy of it back, or remove it to begin anew, or "
        "name another folder"
    )


def _add_checksum(content: io.BytesIO) -> None:
    """Give a zip archive its own SHA-256 as its comment, which those who read such archives pass over."""
    content.seek(-2, io.SEEK_END)  # the comment's length, which was 0
    content.write(DIGEST.to_bytes(2, "little"))
    content.write(hashlib.sha256(content.getbuffer()).hexdigest().encode())


def _checksum_fits(path: Path) -> bool | None:
    """Whether the checksum at the end of a file fits what is before it; None where there is none."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        if size < END + DIGEST:
            return None
        file.seek(size - END - DIGEST)
        end, said = file.read(END), file.read(DIGEST)
        if not end.startswith(END_BEGINS) or end[-2:] != DIGEST.to_bytes(2, "little"):
            return None
        file.seek(0)
        found, left = hashlib.sha256(), size - DIGEST
        while left:
            part = file.read(min(left, 2**20))
            found.update(part)
            left -= len(part)
    return found.hexdigest().encode() == said


def _metrics_beside(path: Path, step: int) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl up to a step, for a state that has none.

    Raises AlignerProbeError where there is a step without a row, since the run would tell less than it found.
    """
    try:
        lines = (path.parent / METRICS).read_bytes().splitlines()
    except OSError:
        lines = []
    # A line written after the last state belongs to steps that are about to be made again.
    rows = [row for row in map(_parsed, lines) if row is not None and row["step"] <= step]
    missing = sorted(set(range(1, step + 1)) - {row["step"] for row in rows})
    if missing:
        raise AlignerProbeError(
            f"{path.parent / METRICS} has no readable line for {len(missing)} of {step} steps, the first {missing[0]}, "
            f"and {STATE}, which an older version wrote, has no metrics; put a copy of the file back, or name another "
            "folder to begin anew"
        )
    return rows


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """What is not as it was, each by its name; an option that an older version did not write down was None."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = (dict(enumerate(one, start=1)) for one in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            yield from _differences(f"{name} {key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{name} {before!r} (now {now!r})"


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A metrics line; None for one that a kill cut short, or that is no such line."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
