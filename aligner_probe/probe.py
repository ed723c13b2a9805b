"""`python -m aligner_probe.probe` is the same as `aligner-probe probe`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.probe import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
