"""How a command runs: one-line errors, exit codes, and what an interrupted command says."""

import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from aligner_probe.commands import messages
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning

#: The exit code after Ctrl-C: 128 plus the number of the signal.
INTERRUPTED = 130


def run(command: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Call a command's `main` with `argv` (None: the process' own arguments) and return its exit code.

    A problem that the user can mend is printed as one line on standard error, and the exit code is 2. After Ctrl-C the
    exit code is 130.
    """
    # A termination is handled like Ctrl-C: `with` and `finally` clean up, which Python's default would skip.
    before_signal = signal.signal(signal.SIGTERM, _interrupt)
    before, warnings.formatwarning = warnings.formatwarning, _formatted
    try:
        return command(argv)
    except AlignerProbeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(messages.INTERRUPTED.format(said=str(interrupt) or messages.NOTHING_LEFT), file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The program that reads the output (`| head`) has ended, which is no error of the command.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        warnings.formatwarning = before
        signal.signal(signal.SIGTERM, before_signal)


@contextmanager
def going_on(how: Callable[[], str]) -> Iterator[None]:
    """If the block is interrupted, `run` prints the sentence that `how` returns: what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(how()) from error


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line for a warning of this project; for other warnings, what Python writes."""
    if issubclass(category, AlignerProbeWarning):
        return f"warning: {message}\n"
    return f"{filename}:{lineno}: {category.__name__}: {message}\n"


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt
