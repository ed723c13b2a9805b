"""The paper's figures and tables, numbered as there, and the ones it lacks.

`aligner-probe figures` draws them all; in a notebook, `draw("fig07", Collection(checkpoints))`. Imported
lazily, so that the command's `--help` need not wait for matplotlib.
"""

from typing import Any

_HOMES = {
    "CATALOGUE": "catalogue",
    "Collection": "collection",
    "Drawing": "drawing",
    "draw": "gallery",
    "draw_gallery": "gallery",
}

__all__ = ["CATALOGUE", "Collection", "Drawing", "draw", "draw_gallery"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
