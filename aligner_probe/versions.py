"""Which versions made a result: part of every artifact's provenance."""

import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aligner_probe import __version__


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, this project (from a source tree, too) and the named packages."""
    own = {"python": platform.python_version(), "aligner-probe": __version__}
    return own | {package: importlib.metadata.version(package) for package in packages}


@functools.cache
def git_state() -> dict[str, Any] | None:
    """Commit of the source this runs from, and whether it was changed; None where it is installed.

    As it was when first asked, which is nearer to the code that is running than as it is later.
    """
    here = Path(__file__)
    commands = (
        ("ls-files", "--error-unmatch", here.name),  # installed inside someone else's repository: not its commit
        ("rev-parse", "HEAD"),
        ("status", "--porcelain", "--", "."),
    )
    try:
        _, commit, changes = (
            subprocess.run(
                ["git", "-C", str(here.parent), *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": bool(changes)}
