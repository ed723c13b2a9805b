"""The entry of all commands: `aligner-probe COMMAND`, and the same as `python -m aligner_probe COMMAND`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from aligner_probe import __version__
from aligner_probe.commands import COMMANDS, run
from aligner_probe.commands.options import Parser
from aligner_probe.errors import did_you_mean


def parser() -> Parser:
    """The parser of the first word; the command's own module parses the rest."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    parser = Parser(
        prog="aligner-probe",
        usage="aligner-probe COMMAND ...",
        description="What does a tiny adapter do to a language model: does it change form, or add knowledge?",
        epilog=f"commands:\n{listed}\n\nThe options of a command: aligner-probe COMMAND --help",
    )
    parser.add_argument("command", nargs="?", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names, with the other words as its arguments; return its exit code.

    Without any word, list the commands. `argv` defaults to the process' own arguments.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    entry = parser()
    command = entry.parse_args(words[:1]).command
    if command is None:
        entry.print_help()
        return 0
    if command not in COMMANDS:
        entry.error(f"unknown command {command!r}; {did_you_mean(command, COMMANDS)}there are {', '.join(COMMANDS)}")
    return run(importlib.import_module(f"aligner_probe.commands.{command}").main, words[1:])
