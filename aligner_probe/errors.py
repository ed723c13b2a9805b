"""The errors a user can do something about.

Each message is one line that says what was found, what was expected and the call or command that goes on from
there. Commands print it and leave with exit code 2; anything else that escapes is a bug and keeps its traceback.
"""

import difflib
from collections.abc import Iterable
from typing import TypeVar

Choice = TypeVar("Choice")
#: How alike two names must be for one to be suggested for the other (difflib's ratio).
ALIKE = 0.6


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


class AlignerProbeWarning(UserWarning):
    """Something that a user should know of a result, though nothing is certain to be wrong. Commands print it."""


def nearest(name: object, names: Iterable[object]) -> str | None:
    """The one of `names` that is most like `name`, upper and lower case alike; None where none is like it."""
    by_letters = {str(one).lower(): str(one) for one in names}
    matches = difflib.get_close_matches(str(name).lower(), by_letters, n=1, cutoff=ALIKE)
    return by_letters[matches[0]] if matches else None


def did_you_mean(name: object, names: Iterable[object]) -> str:
    """ "did you mean NAME? ", to be put before the list of all names; empty where no name is like the given one."""
    near = nearest(name, names)
    return f"did you mean {near}? " if near is not None else ""


def one_of(value: object, choices: Iterable[Choice], what: str) -> Choice:
    """The one of `choices` that `value` is; `what` is the name of the option.

    Raises AlignerProbeError, with all choices and the nearest, where `value` is none of them.
    """
    choices = tuple(choices)
    # By identity or equality of the same type: 1 is not True, and an array is compared with nothing.
    for one in choices:
        if value is one or (type(value) is type(one) and value == one):
            return one
    raise AlignerProbeError(
        f"{what} {value!r}; {did_you_mean(value, choices)}expected one of {', '.join(map(str, choices))}"
    )
