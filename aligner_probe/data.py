"""The folder of data that is not in the repository, because it is too large or belongs to others."""

import os
from pathlib import Path

VARIABLE = "ALIGNER_PROBE_DATA"


def data_folder(name: str) -> Path | None:
    """The folder `name` inside $ALIGNER_PROBE_DATA (by default ../shared); None if it does not exist."""
    folder = Path(os.environ.get(VARIABLE, "../shared")) / name
    return folder if folder.is_dir() else None
