"""What a verdict is drawn from: measures of each kind of score, and how the reference was trained."""

from dataclasses import dataclass

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.measures import Capacity, Kept, Kind, Measures
from aligner_probe.tasks.characters import LostCharacters


@dataclass(frozen=True)
class ReferenceTraining:
    """How far a high-capacity method came.

    `validation` is its best strict score on the validation part; `late_gain` what the best of the tried learning rates
    gained there over the last 40 % of its steps, None where that was not followed; `train` its score on items that it
    was trained on.
    """

    method: str
    validation: float
    late_gain: float | None = None
    train: float | None = None


@dataclass(frozen=True)
class Evidence:
    """Everything that speaks for or against a verdict; what was not run is None.

    `format` is None where completions do not hold a form and a content apart. `trainings` are the methods that were
    tried as the reference, in order, and `run_on` is the share of the reference's answers that begin with what was
    wanted and do not end there. `most_shots` is the most examples that a prompt had; longer ones do not fit into the
    base's context. `prompting` is the score of the positive control: a trivial format by k-shot. `rows_an_item` and
    `own_test` are those of `Parts`.
    """

    kind: Kind
    strict: Measures
    content: Measures
    format: Measures | None = None
    likelihood: Measures | None = None
    trainings: tuple[ReferenceTraining, ...] = ()
    run_on: float = 0.0
    most_shots: int = 1
    prompting: Interval | None = None
    kept: Kept | None = None
    rows_an_item: float = 1.0
    own_test: bool = False
    capacity: Capacity | None = None
    lost: LostCharacters | None = None
