"""`python -m aligner_probe.evaluate` is the same as `aligner-probe evaluate`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.evaluate import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
