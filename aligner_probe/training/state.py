"""A run's folder: what is there at every moment, so that a run killed at any of them goes on where it was.

`metrics.jsonl` has a line a step; `state.pt` the numbers, optimiser and progress of the last saved step, replaced as a
whole; `lock` keeps a second run out, and is let go by the system however the first one ends.
"""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import held, staging_folder, writing_to
from aligner_probe.training.recipe import options_of

STATE, METRICS, LOCK = "state.pt", "metrics.jsonl", "lock"


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
        is damaged.
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
        path = self.folder / STATE
        if not path.exists():
            self._write_metrics()
            return
        state, before = _read(path)
        differ = [said for key in self.identity for said in _differences(key, before.get(key), self.identity[key])]
        if differ:
            recipes = (before.get("recipe"), self.identity.get("recipe"))
            again = options_of(*recipes) if all(isinstance(one, dict) for one in recipes) else ""
            raise AlignerProbeError(
                f"{self.folder} was begun with {', '.join(differ)}; resume with the same options"
                f"{again and ', ' + again}, or name another folder"
            )
        self.loaded = state
        # A line written after the last state belongs to steps that are about to be made again.
        lines = (
            (self.folder / METRICS).read_text(encoding="utf-8").splitlines() if (self.folder / METRICS).exists() else []
        )
        self.metrics = [row for row in map(_parsed, lines) if row is not None and row["step"] <= state["step"]]
        self._write_metrics()

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
        torch.save(state | {"identity": json.dumps(self.identity)}, content)
        with writing_to(self.folder), staging_folder(self.folder) as stage:
            (stage / STATE).write_bytes(content.getbuffer())
            (stage / STATE).replace(self.folder / STATE)

    def _remove(self) -> None:
        """Leave no folder behind of a run that never began."""
        for name in (METRICS, LOCK):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def _write_metrics(self) -> None:
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
    """A saved state and its identity."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, **how)
        int(state["step"])
        return state, dict(json.loads(state["identity"]))
    except Exception as error:  # torch raises RuntimeError, EOFError, UnpicklingError, ... on damaged files
        raise AlignerProbeError(
            f"{path} is damaged, or no saved state of a run ({type(error).__name__}); put a copy of it back, or remove "
            "it to begin anew, or name another folder"
        ) from error


def _differences(name: str, before: Any, now: Any) -> Iterator[str]:
    """What is not as it was, each by its name; an option that an older version did not write down was None."""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        before, now = (dict(enumerate(one, start=1)) for one in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in before | now:
            yield from _differences(f"{name} {key}", before.get(key), now.get(key))
    elif before != now:
        yield f"{name} {before!r} (now {now!r})"


def _parsed(line: str) -> dict[str, Any] | None:
    """A metrics line; None for one that a kill cut short."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and "step" in row else None
