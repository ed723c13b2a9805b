"""What the parsers of several commands share: a parser whose errors are one line, common options, types of options.

Nothing heavy is imported here, so that `--help` answers at once. The parser is argparse's: `--published [DIR]` needs an
option with an optional value, and an error must stay one line.
"""

import argparse
import math
from collections.abc import Callable
from typing import Any, NoReturn

from aligner_probe.commands import COMMANDS
from aligner_probe.errors import did_you_mean

#: The help of --threads where the option is not given; `aligner_probe.threads` has the rule and the reason.
THREADS = "1 on a base below 20 million parameters, else torch's, unless OMP_NUM_THREADS is set"

#: What options are added to: a parser, or a group of its options.
Group = argparse._ActionsContainer


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line; the exit code is 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """Like argparse's own check, and the error also names the nearest choice."""
        if action.choices is not None and value not in action.choices:
            choices = ", ".join(map(str, action.choices))
            hint = did_you_mean(value, action.choices)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} ({hint}choose from {choices})")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")

    def add_reading_options(self) -> None:
        """Add options for files that do not record everything about themselves."""
        group = self.add_argument_group("reading OpenGVLab LLaMA-Adapter files, which do not record these")
        group.add_argument(
            "--gate", choices=("tanh", "linear"), help="what the gates pass through (default: tanh, as V1 was trained)"
        )
        group.add_argument(
            "--adapter-length", type=int, metavar="N", help="prefix tokens in each layer (default: from the gates)"
        )


def command_parser(name: str, epilog: str | None = None) -> Parser:
    """The parser of a command, which begins with what `COMMANDS` says of it."""
    purpose = COMMANDS[name]
    return Parser(prog=f"aligner-probe {name}", description=f"{purpose[0].upper()}{purpose[1:]}.", epilog=epilog)


def add_threads(parser: Group, default: str = THREADS) -> None:
    """Add --threads, the number of CPU threads; `use_threads` applies it."""
    parser.add_argument("--threads", type=positive, metavar="N", help=f"CPU threads of a process (default: {default})")


def use_threads(n: int | None) -> None:
    """Use `n` CPU threads; where `n` is None, the rule of `aligner_probe.threads` holds.

    Raises AlignerProbeError for more threads than there can be.
    """
    if n is not None:
        from aligner_probe.threads import set_threads  # imports torch, so only after the options are parsed

        set_threads(n)


def add_quantization(parser: Group) -> None:
    """Add --quantization, with which the base model is read."""
    parser.add_argument(
        "--quantization",
        choices=("nf4", "int8"),
        help="quantise the base model while it is read: nf4 (bitsandbytes) or int8 (torchao), see "
        'pip install "aligner-probe[quantised]" (default: as it is stored)',
    )


def add_rows(parser: Group) -> None:
    """Add the options that say how the rows of a task are read; `rows_options` reads them."""
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
    parser.add_argument(
        "--as-chat",
        action="store_true",
        help="read the prompts of a file of texts as what a user says to a chat model, without the format's own prompt "
        "template",
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message for all conversations; \\n is a new line")


def rows_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of `add_rows` as keyword arguments of `load_splits`."""
    from aligner_probe.tasks.templates import unescape

    return {
        "flawed": options.flawed,
        "ignore_fields": tuple(options.ignore_field),
        "repeated_prompt": options.repeated_prompt,
        "as_chat": options.as_chat,
        "system": None if options.system is None else unescape(options.system),
    }


# Types of options. argparse names the function in its message, so their names are words that a user understands.


def positive(text: str) -> int:
    """A whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected 1 or more")
    return value


def count(text: str) -> int:
    """A whole number from 0 up."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}; expected 0 or more")
    return value


def finite(text: str) -> float:
    """A number that is neither infinite nor "nan"."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}; expected a number")
    return value


def gigabytes(text: str) -> int:
    """A number of gigabytes, returned in bytes."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text}; expected 0 or more")
    return int(1e9 * value)


def start_seed(text: str) -> int:
    """A whole number that torch's random generators take as their seed."""
    try:
        value = int(text)
    except ValueError:
        value = None
    if value is None or not -(2**63) <= value < 2**64:
        raise argparse.ArgumentTypeError(f"{text}; expected a whole number from {-(2**63)} to {2**64 - 1}")
    return value


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(text.split(","))


def unless_none(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """The type of an option that the word "none" switches off."""

    def read(text: str) -> Any:
        return text if text == "none" else kind(text)

    read.__name__ = kind.__name__
    return read
