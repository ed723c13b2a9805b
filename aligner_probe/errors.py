"""The errors a user can do something about.

Each message is one line that says what was found, what was expected and the call or command that goes on from
there. Commands print it and leave with exit code 2; anything else that escapes is a bug and keeps its traceback.
"""


class AlignerProbeError(Exception):
    """Something the user can mend: bad input, a missing file, an option that does not fit."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())


class CheckpointError(AlignerProbeError):
    """A file or folder that is not a checkpoint this project can read; `reason` leaves out the path."""

    def __init__(self, path: object, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = " ".join(reason.split())
