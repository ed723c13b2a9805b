"""The folder of a training, or of several that share their batches, as the loop sees it: rows in, states in and out.

A folder of one training holds the rows of its metrics and its state. A folder of several trainings holds the rows of
all; the field `run` of a row is the index of its training. Its state holds the states of all, at the same step.
"""

from collections.abc import Sequence
from typing import Any

from aligner_probe.training.member import Member
from aligner_probe.training.state import RunFolder

#: The column that says to which of several trainings a row of metrics belongs, by its index.
RUN = "run"


class Records:
    """Metrics and states of these members in a folder; `n_threads` is the number of CPU threads they are made with."""

    def __init__(self, folder: RunFolder, members: Sequence[Member], n_threads: int):
        self.folder, self.members, self.n_threads = folder, members, n_threads
        self.alone = len(members) == 1

    def restore(self) -> None:
        """Give every member its saved state, where there is one.

        Raises AlignerProbeError where the state lacks something.
        """
        loaded = self.folder.loaded
        with self.folder.restoring():
            states = [None] * len(self.members)
            if loaded is not None:
                states = [loaded] if self.alone else loaded["runs"]
            for member, state in zip(self.members, states, strict=True):
                member.restore(state)

    def save(self) -> None:
        """Replace the saved state by the present one."""
        if self.folder.folder is None:
            return
        states = [member.state() for member in self.members]
        step = max(member.progress.step for member in self.members)
        self.folder.save({"step": step, "threads": self.n_threads} | (states[0] if self.alone else {"runs": states}))

    def add(self, member: Member, row: dict[str, Any]) -> None:
        """Add a row of a member's metrics."""
        self.folder.record(row if self.alone else row | {RUN: self.members.index(member)})

    def of(self, member: Member) -> list[dict[str, Any]]:
        """All rows of a member's metrics."""
        if self.alone:
            return self.folder.metrics
        own = self.members.index(member)
        return [{k: v for k, v in row.items() if k != RUN} for row in self.folder.metrics if row.get(RUN) == own]
