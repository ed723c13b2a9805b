"""Arithmetic on two-digit numbers: four operations that the corpus shows, three that it never names."""

from collections.abc import Callable
from dataclasses import dataclass

from aligner_probe.microworld.world import N_NUMBERS, World


@dataclass(frozen=True)
class Operation:
    """An operation. `phrase` has {a} and {b}; `compute` gives a number from 0 to 99; `ordered` allows only a >= b."""

    name: str
    phrase: str
    compute: Callable[[int, int], int]
    ordered: bool = False

    def expression(self, a: int, b: int) -> str:
        return self.phrase.format(a=number(a), b=number(b))

    def answer(self, a: int, b: int) -> str:
        return number(self.compute(a, b))

    def allows(self, a: int, b: int) -> bool:
        return not self.ordered or a >= b


OPERATIONS = (
    Operation("plus", "{a} plus {b}", lambda a, b: a + b),
    Operation("minus", "{a} minus {b}", lambda a, b: a - b, ordered=True),
    Operation("larger", "the larger of {a} and {b}", max),
    Operation("smaller", "the smaller of {a} and {b}", min),
)
#: Their names stand in no text that the model reads.
WITHHELD_OPERATIONS = (
    Operation("splice", "{a} splice {b}", lambda a, b: a // 10 * 10 + b % 10),
    Operation("weld", "{a} weld {b}", lambda a, b: b % 10 * 10 + a % 10),
    Operation("braid", "{a} braid {b}", lambda a, b: (a + 2 * b) % 100),
)


def number(value: int, digits: int = 2) -> str:
    """A number as the micro-world writes it: always with two digits (or `digits`). Each digit is one token."""
    return f"{value:0{digits}d}"


def pairs(world: World, operation: Operation, *, withheld: bool) -> list[tuple[int, int]]:
    """The operand pairs of an operation: those that the texts show, or those that they leave out."""
    return [
        (a, b)
        for a in range(N_NUMBERS)
        for b in range(N_NUMBERS)
        if operation.allows(a, b) and world.is_withheld_pair(operation.name, a, b) == withheld
    ]
