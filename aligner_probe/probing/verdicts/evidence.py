"""The evidence for a verdict: the measures of each kind of score, the controls, and the training of the reference."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aligner_probe.arms.names import LORA_8
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.probing.verdicts.frontier import MostKept
from aligner_probe.probing.verdicts.measures import Capacity, Kept, Measures, TaskKind
from aligner_probe.probing.verdicts.thresholds import Thresholds
from aligner_probe.tasks.characters import LostCharacters


@dataclass(frozen=True)
class ReferenceTraining:
    """How far a method that is tried as the reference came in its training.

    Args:
        method: the arm's name.
        validation: the strict score on the validation part after training.
        late_gain: how much of that was gained over the last 40 % of the steps; None where it was not measured.
        train: the strict score on items that were trained; None where none could be asked.
        late_fall: the share of the fall of the validation loss that came over the last 40 % of the steps; None where
            it was not measured.
        late_error: the standard error of `late_gain`; 0 where it is not known.
    """

    method: str
    validation: float
    late_gain: float | None = None
    train: float | None = None
    late_fall: float | None = None
    late_error: float = 0.0

    def has_stopped(self, thresholds: Thresholds) -> bool:
        """Whether more steps would bring little: validation loss and validation score have levelled off.

        The loss is the sharper of the two. The score of a few items moves by chance, so it counts as rising only where
        its gain is clearly too large.
        """
        level = self.late_fall is None or self.late_fall < thresholds.late_fall
        return level and self.late_gain is not None and self.least_gain < thresholds.late_gain

    @property
    def least_gain(self) -> float:
        """The lower bound of the 95 % interval of `late_gain`, which must be known."""
        assert self.late_gain is not None
        return self.late_gain - 1.96 * self.late_error


@dataclass(frozen=True)
class Evidence:
    """Everything that a verdict is decided on; what was not run is None.

    Args:
        kind: how the task is tested.
        strict, content, format, likelihood: the measures of each kind of score. `format` is None where completions do
            not hold form and content apart.
        known: the strict scores of those test items alone whose content the base knows; None where these are too few,
            or nearly all.
        known_share: the share of test items whose content the base knows; None where the task has no form beside its
            content.
        trainings: the candidates for the reference that were tried, in order.
        reference: the arm that is the reference.
        run_on: the share of the reference's answers that begin with the expected answer and do not end there.
        most_shots: the most examples that a way to ask shows to at least half of the items; there is no room for more.
        prompting: the score of the positive control, a trivial format that is shown in examples.
        kept: what Aligner-1 keeps at the learning rate that suits the task.
        most_kept: by arm, K: the most that it keeps among its runs that reach the form; empty where that was not run.
        kept_against_lora: K of Aligner-1 less K of LoRA r=8; None where one of them does not reach the form.
        rows_an_item: rows of the task for each independent test item (`Parts.rows_an_item`).
        own_test: whether the test is a file of its own.
        capacity: the number of facts that Aligner-1 holds, for a memory task.
        soft_train: the strict score of the soft prompt on items that were trained; None where none could be asked.
        lost: the characters of the task that the base model's tokenizer loses.
    """

    kind: TaskKind
    strict: Measures
    content: Measures
    format: Measures | None = None
    likelihood: Measures | None = None
    known: Measures | None = None
    known_share: float | None = None
    trainings: tuple[ReferenceTraining, ...] = ()
    reference: str = LORA_8
    run_on: float = 0.0
    most_shots: int = 1
    prompting: Interval | None = None
    kept: Kept | None = None
    most_kept: Mapping[str, MostKept] = field(default_factory=dict)
    kept_against_lora: Interval | None = None
    rows_an_item: float = 1.0
    own_test: bool = False
    capacity: Capacity | None = None
    lost: LostCharacters | None = None
    soft_train: float | None = None

    def has_learned(self, thresholds: Thresholds) -> bool:
        """Whether a candidate for the reference has learned the task, so that its ceiling is known."""
        return any(thresholds.is_learned(one.validation) for one in self.trainings)
