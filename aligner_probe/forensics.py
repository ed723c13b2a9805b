"""`python -m aligner_probe.forensics` is the same as `aligner-probe forensics`."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.forensics import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))
