"""Which versions made a result: part of every artifact's provenance."""

import importlib.metadata
import platform
from collections.abc import Iterable

from aligner_probe import __version__


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Of Python, this project (from a source tree, too) and the named packages."""
    own = {"python": platform.python_version(), "aligner-probe": __version__}
    return own | {package: importlib.metadata.version(package) for package in packages}
