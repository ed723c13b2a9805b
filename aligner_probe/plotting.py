"""Plots of results, by name: a result can draw itself although the figures lie on a floor above it.

    ax = plot("probe", report, ax=None)

Data flows from results to figures, so no module of results imports one of figures. A result names its plot here, and
the figure's module is imported when the plot is asked for, as the front door imports what it offers.
"""

import importlib
from typing import Any

#: The module and the function of each plot. Such a function takes the data and an axis, and returns the axis.
PLOTS = {"probe": ("aligner_probe.figures.probe", "plot_doses")}
#: Width and height of a new figure in inches; the legend stands beside the axis.
SIZE = (8.4, 4.2)


def plot(name: str, data: Any, ax: Any = None) -> Any:
    """Draw `data` by the plot of this name.

    Args:
        name: one of `PLOTS`.
        data: what the plot's function takes.
        ax: the matplotlib axis to draw on; None makes a new figure, which a notebook shows.

    Returns:
        The axis.
    """
    if ax is None:
        from matplotlib import pyplot

        _, ax = pyplot.subplots(figsize=SIZE, layout="constrained")
    module, function = PLOTS[name]
    return getattr(importlib.import_module(module), function)(data, ax)
