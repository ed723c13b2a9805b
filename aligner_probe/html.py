"""How results look in a notebook: one line of text, or a small table in which every text is escaped.

    @dataclass(frozen=True, repr=False)
    class Scores(Shown):
        def shown(self):
            return {"scorer": self.scorer, "items": len(self)}

Names, prompts and paths come from files of strangers, so nothing of them is taken for HTML.
"""

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

from aligner_probe.files import storable

MOST_ROWS, MOST_CHARACTERS = 14, 160
#: Of the line of text, all values together.
MOST_IN_LINE = 60
CELL = "text-align:left;vertical-align:top;padding:1px 8px"


class Shown:
    """A mix-in: `shown` says what a result is about, by name, and both representations are made of it."""

    def shown(self) -> Mapping[str, Any]:
        """Names and values, the most important first."""
        raise NotImplementedError

    def __repr__(self) -> str:
        said = (f"{name}={text_of(value, MOST_IN_LINE)}" for name, value in self.shown().items())
        return f"{type(self).__name__}({', '.join(said)})"

    def _repr_html_(self) -> str:
        return table(type(self).__name__, self.shown())


def table(title: str, rows: Mapping[str, Any]) -> str:
    """A table of a title and two columns, names and values, as HTML."""
    shown = list(rows.items())[:MOST_ROWS]
    left = len(rows) - len(shown)
    cells = [_row(name, text_of(value)) for name, value in shown]
    cells += [_row("…", f"{left} more")] if left else []
    head = f'<thead><tr><th colspan="2" style="{CELL}">{escaped(text_of(title))}</th></tr></thead>'
    return f"<table>{head}<tbody>{''.join(cells)}</tbody></table>"


def text_of(value: Any, most: int = MOST_CHARACTERS) -> str:
    """A value in at most so many characters: numbers in four digits, lists by their first items, on one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else "not defined"
    if isinstance(value, Mapping):
        value = ", ".join(f"{name}: {text_of(one, most)}" for name, one in list(value.items())[:MOST_ROWS])
    elif isinstance(value, Iterable) and not isinstance(value, str):
        value = ", ".join(text_of(one, most) for one in list(value)[:MOST_ROWS])
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)[: 20 * most]).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"


def escaped(text: str) -> str:
    """A text as HTML shows it to the letter."""
    return html.escape(storable(text), quote=True)


def _row(name: str, value: str) -> str:
    return f'<tr><th style="{CELL}">{escaped(text_of(name))}</th><td style="{CELL}">{escaped(value)}</td></tr>'
