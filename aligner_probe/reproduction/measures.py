"""Measures of a set by what the model finds likely: held-out loss, the choice among options, and preferences."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.evaluation.likelihood import log_likelihoods, next_tokens, single_tokens, whole_completions
from aligner_probe.reproduction.source import Measured
from aligner_probe.tasks import Example, Preference

#: Sequences in a forward pass.
BATCH = 8


@dataclass(frozen=True)
class Losses:
    """The loss of each held-out completion in nats a token, its end token among them."""

    examples: tuple[Example, ...]

    def of(self, model: TransformerBridge) -> Measured:
        """Value "loss". Raises AlignerProbeError as `log_likelihoods` does."""
        each = log_likelihoods(model, self.examples, batch_size=BATCH)
        return Measured(values={"loss": _rounded([-float(row.mean()) for row in each])})

    def some(self, n: int) -> "Losses":
        return Losses(self.examples[:n])


@dataclass(frozen=True)
class Choices:
    """Questions whose answer is the label of an option (MMLU): content and form of the answer, apart.

    Content: of all labels, the right one is the likeliest, as in the harness of MMLU. Form: a greedy answer begins with
    a label. Strict: it is the right label. Where each label is one token, one forward pass a question tells all three;
    else each label has its own.
    """

    examples: tuple[Example, ...]
    labels: tuple[str, ...]

    def of(self, model: TransformerBridge) -> Measured:
        """Scores "content", "form" and "strict". Raises AlignerProbeError as `next_tokens` does."""
        ids = single_tokens(model, self.examples[0].prompt, self.labels)  # all prompts end alike
        if ids is not None:
            likelihoods, likeliest = next_tokens(model, self.examples, ids, batch_size=BATCH)
            begins_with = likeliest[:, None] == np.array(ids)
        else:
            whole = [Example(example.prompt, label) for example in self.examples for label in self.labels]
            shape = (len(self.examples), len(self.labels))
            likelihoods, begins_with = (
                each.reshape(shape) for each in whole_completions(model, whole, batch_size=BATCH)
            )
        right = np.array([self.labels.index(example.completion) for example in self.examples])
        by_kind = {
            "strict": begins_with[np.arange(len(right)), right],
            "content": likelihoods.argmax(axis=1) == right,
            "form": begins_with.any(axis=1),
        }
        return Measured({kind: "".join(str(int(value)) for value in values) for kind, values in by_kind.items()})

    def some(self, n: int) -> "Choices":
        return Choices(self.examples[:n], self.labels)


@dataclass(frozen=True)
class Pairs:
    """Whether the chosen answer is likelier than the rejected one, and by how much.

    The margin is the difference of their summed log-probabilities in nats. Less that of the model before DPO, and times
    beta, it is DPO's implicit reward.
    """

    preferences: tuple[Preference, ...]

    def of(self, model: TransformerBridge) -> Measured:
        """Score "content" (the chosen one is likelier) and value "margin"; raises as `log_likelihoods` does."""
        chosen, rejected = (
            np.array([row.sum() for row in log_likelihoods(model, examples, batch_size=BATCH)])
            for examples in (
                [Example(pair.prompt, pair.chosen) for pair in self.preferences],
                [Example(pair.prompt, pair.rejected) for pair in self.preferences],
            )
        )
        margin: Float[np.ndarray, " pairs"] = chosen - rejected
        digits = "".join(str(int(value > 0)) for value in margin)
        return Measured({"content": digits}, {"margin": _rounded(margin.tolist())})

    def some(self, n: int) -> "Pairs":
        return Pairs(self.preferences[:n])


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 5) for value in values)
