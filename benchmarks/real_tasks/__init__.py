"""Tasks of known nature for a real chat model, one module a kind of task; everything is drawn by a seed."""

from collections.abc import Callable

from real_tasks.controls import chance_labels, constant
from real_tasks.facts import invented_capitals, invented_persona, overwritten_capitals
from real_tasks.forms import capital_letters, persona, record
from real_tasks.open_answers import alpaca, refusals
from real_tasks.skills import digit_code
from real_tasks.task import RealTask

#: By name, in the order in which they are probed.
TASKS: dict[str, Callable[[int], RealTask]] = {
    maker.__name__: maker
    for maker in (
        persona,
        digit_code,
        record,
        invented_capitals,
        chance_labels,
        overwritten_capitals,
        capital_letters,
        invented_persona,
        constant,
        alpaca,
        refusals,
    )
}

__all__ = ["TASKS", "RealTask"]
