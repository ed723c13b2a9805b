"""What ends an answer: the base's end token, or a text where the base hardly knows that token.

Small bases were often trained on texts without an end token. To teach it them takes many numbers, if it succeeds at
all: their answers begin right and run on, and none is right to the letter. A new line, which such bases do know, then
ends answers instead, in training, in prompts and in what is generated, so that a probe tells of its task and not of
the token. It is settled on the base alone, before anything is trained.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.likelihood import log_likelihoods
from aligner_probe.tasks.task import Example, Task

#: In the order they are tried.
LINE_ENDS = ("\n", "\n\n", "\n\n\n", "\n###\n")
#: A new line must be this many times as likely as the end token to take its place.
TIMES_AS_LIKELY = 100


@dataclass(frozen=True)
class Ending:
    """A text, empty for the base's end token, and why it is that."""

    text: str
    because: str

    @property
    def said(self) -> str:
        return repr(self.text) if self.text else "the end token"


def line_end(examples: Sequence[Example]) -> str:
    """A new line, or as many as stand in no answer before its end. Raises AlignerProbeError where there is none."""
    for text in LINE_ENDS:
        if not any(text in example.completion.rstrip() for example in examples):
            return text
    raise AlignerProbeError(
        f"no text is left to end an answer with: each of {', '.join(map(repr, LINE_ENDS))} stands inside some "
        "completion; take empty lines out of the completions"
    )


def without(task: Task, text: str) -> Task:
    """The task with `text` taken from the end of every completion that ends on it, so that it is none of the answer.

    Raises AlignerProbeError where it stands inside a completion: an answer would be cut there.
    """
    examples = tuple(replace(e, completion=e.completion.removesuffix(text)) for e in task.examples) if text else ()
    for example in examples:
        if text in example.completion or not example.completion:
            where = "inside the completion" if example.completion else "as all of a completion, after the prompt"
            raise AlignerProbeError(
                f"{text!r} cannot end answers, since it stands {where} "
                f"{(example.completion or example.prompt)[-60:]!r} of {task.name}; take another, which stands in none"
            )
    return replace(task, examples=examples) if text else task


def ended(task: Task, text: str) -> Task:
    """The task with `text` at the end of every completion that does not end on it; as it is for an empty one."""
    return replace(task, examples=tuple(replace(e, completion=_with(e.completion, text)) for e in task.examples))


def ending_for(model: TransformerBridge, examples: Sequence[Example], text: str = "\n") -> Ending:
    """The end token; `text`, a new line, where the base has none, or hardly knows it.

    It hardly knows a token that it finds, after the references, less likely than one drawn at random, where references
    with `text` are `TIMES_AS_LIKELY` as likely. Probabilities are geometric means over `examples`.
    """
    tokenizer = model.tokenizer
    if tokenizer.eos_token_id is None:
        return Ending(text, "the base has no end token")
    with_end = log_likelihoods(model, examples)
    end = float(np.mean([each[-1] for each in with_end]))
    if end >= -math.log(model.cfg.d_vocab):
        return Ending("", "the base knows its end token")
    with_text = log_likelihoods(model, ended(Task("", "sft", tuple(examples)), text).examples, append_eos=False)
    # Of whole references, since a tokenizer may put what ends one into a token with what comes before.
    more = float(np.mean([one.sum() - other.sum() for one, other in zip(with_text, with_end, strict=True)]))
    why = (
        f"after references the base gives its end token {tokenizer.eos_token!r} a probability of e^{end:.1f} and "
        f"finds them e^{more:.1f} times as likely with {text!r} instead"
    )
    return Ending(text if more >= math.log(TIMES_AS_LIKELY) else "", why)


def _with(completion: str, text: str) -> str:
    return completion if completion.endswith(text) else completion + text
