"""`python -m aligner_probe.figures` is the same as `aligner-probe figures`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.figures import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
