"""What the parsers of several commands share: a parser whose errors are one line, and common options.

Nothing heavy is imported here, so that `--help` answers at once. The parser is argparse's: `--published [DIR]` needs an
option with an optional value, and an error must stay one line.
"""

import argparse
from typing import Any, NoReturn

from aligner_probe.errors import did_you_mean

#: What --threads is where it is not given; `aligner_probe.threads` has the rule and the reason.
THREADS = "1 on a base below 20 million parameters, else torch's, unless OMP_NUM_THREADS is set"


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors (exit code 2)."""

    def __init__(self, **options) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse's, with the nearest choice."""
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            hint = did_you_mean(value, action.choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({hint}choose from {choices})")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def add_reading_options(self) -> None:
        """Options for files that do not say everything about themselves."""
        group = self.add_argument_group("reading OpenGVLab LLaMA-Adapter files, which do not record these")
        group.add_argument(
            "--gate", choices=("tanh", "linear"), help="what the gates pass through (default: tanh, as V1 was trained)"
        )
        group.add_argument("--adapter-length", type=int, metavar="N", help="tokens a layer (default: from the gates)")


def add_threads(parser: argparse.ArgumentParser | argparse._ArgumentGroup, default: str = THREADS) -> None:
    """The option --threads of a command that computes; `use_threads` carries it out."""
    parser.add_argument("--threads", type=positive, metavar="N", help=f"CPU threads of a process (default: {default})")


def use_threads(n: int | None) -> None:
    """Choose the number of threads that --threads gives; without one the rule of `aligner_probe.threads` holds.

    Raises AlignerProbeError for more threads than there can be.
    """
    if n is not None:
        from aligner_probe.threads import set_threads  # imports torch, so only after the options are parsed

        set_threads(n)


def positive(text: str) -> int:
    """A whole number from 1 up, as the type of an option."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected 1 or more")
    return value


def add_rows(parser: Any) -> None:
    """Options that say how the rows of a task are read; `rows_options` are what `load_splits` takes of them."""
    parser.add_argument(
        "--flawed",
        choices=("refuse", "drop"),
        default="refuse",
        help="rows that teach nothing, or are marked as bad examples: refuse the file, or drop and count them",
    )
    parser.add_argument(
        "--ignore-field",
        action="append",
        default=[],
        metavar="FIELD",
        help="leave this field out of every row, though it may change what the row means (may be given several times)",
    )
    parser.add_argument(
        "--repeated-prompt",
        choices=("auto", "strip", "keep"),
        default="auto",
        help="answers that begin with their whole prompt: take it off, or keep it (default: as the file shows)",
    )


def rows_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_rows` as keyword arguments of `load_splits`."""
    return {
        "flawed": options.flawed,
        "ignore_fields": tuple(options.ignore_field),
        "repeated_prompt": options.repeated_prompt,
    }
