"""Where data lies that is too large, or not ours, to be in the repository."""

import os
from pathlib import Path

VARIABLE = "ALIGNER_PROBE_DATA"


def data_folder(name: str) -> Path | None:
    """The folder `name` inside $ALIGNER_PROBE_DATA (default ../shared); None where there is none."""
    folder = Path(os.environ.get(VARIABLE, "../shared")) / name
    return folder if folder.is_dir() else None
