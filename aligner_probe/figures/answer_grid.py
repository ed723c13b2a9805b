"""Answers of several models side by side: a row a question, a column a model, and below each what is found in it."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from aligner_probe.figures.experiments import LABELS
from aligner_probe.figures.looks import EMPHASIS, GREY, LOOKS, ORANGES

#: Letters a line of a cell, and inches: of a column, a line, and a row besides its lines.
WRAP, COLUMN, LINE, ROW_REST = 25, 1.95, 0.145, 0.2


@dataclass(frozen=True)
class Answer:
    """One model's answer to one question, and what the rule says of it: `mark`, where it is not content and form."""

    method: str
    kind: str
    question: str
    reference: str
    answer: str
    content: bool
    form: bool
    mark: str | None = None


def plot_responses(ax: Axes, answers: Sequence[Answer], *, with_form: bool = True) -> Axes:
    """A row a question, a column a model; under each answer whether content (and form) are right."""
    methods = list(dict.fromkeys(answer.method for answer in answers))
    questions = list(dict.fromkeys((a.kind, a.question) for a in answers))
    cells = {(a.question, a.method): a for a in answers}
    y = 0.0
    for column, method in enumerate(methods):
        ax.text(column + 1.03, -0.1, LABELS[method], color=_ink(method), fontweight="bold", fontsize=8, va="bottom")
    ax.text(0.03, -0.1, "question", fontweight="bold", fontsize=8, va="bottom")
    for kind, question in questions:
        asked = _wrapped(_as_asked(question))
        columns = [_wrapped(cells[question, method].answer) for method in methods]
        height = LINE * (max(len(asked.splitlines()) + 1, *(len(c.splitlines()) + 1 for c in columns))) + ROW_REST
        ax.axhline(y, color="#D0D0D0", linewidth=0.7)
        ax.text(0.03, y + 0.08, f"{asked}", fontsize=7.5, va="top")
        ax.text(0.03, y + height - 0.08, kind, fontsize=6.5, color=GREY, va="bottom")
        for column, (method, text) in enumerate(zip(methods, columns, strict=True)):
            cell = cells[question, method]
            ax.text(column + 1.03, y + 0.08, text, fontsize=7.5, va="top", family="monospace")
            said = f"content {_mark(cell.content)}" + (f", form {_mark(cell.form)}" if with_form else "")
            verdict = said if cell.mark is None else cell.mark
            ink = "#4A4A4A" if cell.content else EMPHASIS
            ax.text(column + 1.03, y + height - 0.08, verdict, fontsize=6.5, color=ink, va="bottom")
        y += height
    ax.set(xlim=(0, len(methods) + 1), ylim=(y, -0.3))
    ax.axis("off")
    return ax


def _as_asked(prompt: str) -> str:
    """The question's own words, without the frame of Q and A."""
    return prompt.rpartition("Q: ")[2].removesuffix("A:").strip()


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, WRAP, max_lines=6, placeholder=" …")) or "(nothing)"


def _ink(method: str) -> str:
    """The method's colour; orange is too pale for letters, so its darker shade stands in."""
    return ORANGES[1] if method.startswith("llama") else LOOKS[method][0]


def _mark(right: bool) -> str:
    return "right" if right else "wrong"
