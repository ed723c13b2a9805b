"""What differs between base models: where the data and the questions of the experiments come from.

A `Source` says what each experiment trains on (`Stage`), what is asked and how it is measured (`Material`), and by
which recipe a stage is trained. `world.py` has the source of the micro-world, `real.py` that of published data sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.reproduction.cells import Experiment, ReproductionCell
from aligner_probe.reproduction.items import Item
from aligner_probe.tasks import Task
from aligner_probe.training import Recipe


@dataclass(frozen=True)
class Stage:
    """One training: its name ("sft" or "dpo"), and the tasks to train on and to validate with."""

    name: str
    train: Task
    validation: Task


@dataclass(frozen=True)
class Measured:
    """What a set of items gave: by kind of score a text of one digit an item, and by name one value an item.

    `values` are measures that are no shares, for instance the loss of each item in nats a token.
    """

    scores: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@runtime_checkable
class Measure(Protocol):
    """Measures a set of items by what the model finds likely, under whatever adapters are attached."""

    def of(self, model: TransformerBridge) -> Measured:
        """The measures of all items of the set."""
        ...

    def some(self, n: int) -> "Measure":
        """The same for the first `n` items, to time it."""
        ...


@dataclass(frozen=True)
class Material:
    """What an experiment consists of.

    Args:
        stages: its trainings, in order.
        items: its named sets of test items.
        measures: how some of these sets are measured. The items of all others are asked, and their answers are scored
            by the rule of each item.
    """

    stages: tuple[Stage, ...]
    items: Mapping[str, tuple[Item, ...]]
    measures: Mapping[str, Measure] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """The data and the measures of all experiments. It travels to each process that makes cells."""

    def materials(self) -> dict[str, Material]:
        """The material of each experiment, by its name."""
        ...

    def questions(self) -> tuple[Item, ...]:
        """The mixed questions that models are asked, whose answers are kept as they are."""
        ...

    def asks_questions(self, experiment: Experiment) -> bool:
        """Whether the runs of an experiment answer the mixed questions."""
        ...

    def recipe_of(self, cell: ReproductionCell, stage: Stage) -> Recipe:
        """How a stage of a cell is trained."""
        ...

    @property
    def keeps_answers(self) -> bool:
        """Whether the answers to the items of each set are kept, too, and not their scores alone."""
        ...

    def answers(self, model: TransformerBridge, items: Sequence[Item]) -> list[str]:
        """Greedy answers to items, under whatever adapters are attached."""
        ...

    def plan_json(self, cells: Sequence[ReproductionCell], base: str) -> str:
        """The text of plan.json; `base` is the fingerprint of the base model."""
        ...

    def measured_answers(self, model: TransformerBridge, answers: Sequence[str]) -> Measured:
        """What is measured of the answers to the mixed questions, besides keeping them; nothing where it is empty."""
        ...


def items_json(source: Source) -> dict[str, Any]:
    """The content of items.json: all that is asked."""
    asked: dict[str, Any] = {
        experiment: {name: [item.to_json() for item in items] for name, items in material.items.items()}
        for experiment, material in source.materials().items()
    }
    return asked | {"questions": [item.to_json() for item in source.questions()]}
