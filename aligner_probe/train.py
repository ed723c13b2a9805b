"""`python -m aligner_probe.train` is the same as `aligner-probe train`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.train import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
