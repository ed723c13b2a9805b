"""Packages whose names are imported when they are first used.

A package's __init__ that imports all its modules makes every one of them as slow to import as the slowest. With

    __getattr__ = names_of(__name__, {"generate": "generation", "Interval": "intervals"})

`from package import Interval` imports package.intervals alone, and package.generation when `generate` is asked for.
"""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def names_of(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`; `homes` has the module of each public name, relative to the package.

    The function raises AttributeError for other names, with the nearest name and all of them.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            from aligner_probe.errors import did_you_mean

            hint = did_you_mean(name, homes)
            raise AttributeError(f"module {package!r} has no attribute {name!r}; {hint}there are {', '.join(homes)}")
        return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)

    return __getattr__
