"""The commands, `aligner-probe COMMAND`: one thin module for each, which parses, reads, calls and prints.

`entry.py` finds the command's module, `running.py` calls it, and `options.py` holds the options that several commands
share. Nothing heavy is imported before the options are parsed, so that `--help` answers at once.
"""

from aligner_probe.commands.running import INTERRUPTED, going_on, run

__all__ = ["INTERRUPTED", "going_on", "run"]
