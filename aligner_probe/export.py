"""`python -m aligner_probe.export` is the same as `aligner-probe export`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.export import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
