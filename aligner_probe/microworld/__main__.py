"""`python -m aligner_probe.microworld` is the same as `aligner-probe microworld`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.microworld import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
