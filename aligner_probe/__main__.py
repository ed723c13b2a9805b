"""`python -m aligner_probe COMMAND` is the same as `aligner-probe COMMAND`."""

import sys

from aligner_probe.commands.entry import main

if __name__ == "__main__":
    sys.exit(main())
