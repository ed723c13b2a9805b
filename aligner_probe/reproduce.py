"""`python -m aligner_probe.reproduce` is the same as `aligner-probe reproduce`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.reproduce import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
