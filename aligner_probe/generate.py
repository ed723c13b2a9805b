"""`python -m aligner_probe.generate` is the same as `aligner-probe generate`; imported, the name is the function."""

import sys

from aligner_probe.commands import run
from aligner_probe.commands.generate import main, parser

__all__ = ["main", "parser"]

if __name__ == "__main__":
    sys.exit(run(main))

from aligner_probe.evaluation.generation import generate

# An import puts this module into the package under its name, where `ap.generate` is the function.
sys.modules[__name__] = generate  # pyright: ignore[reportArgumentType]
