"""Decides what ends an answer: the base model's end token, or a new line where the base model hardly knows that token.

Small base models were often trained on texts without an end token. Teaching it to them takes many parameters, if it
works at all. Their answers begin right and run on, and none of them is exactly right. Such models do know a new line,
which then ends answers instead: in training, in prompts and in what is generated. So a probe measures its task and not
whether the token was learned. The decision uses the base model alone, before anything is trained.

In conversations there is nothing to decide where the chat template ends turns with a token: that token ends answers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.evaluation.likelihood import log_likelihoods
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.task import Example, Task

#: The texts that can end answers, in the order in which they are tried.
LINE_ENDS = ("\n", "\n\n", "\n\n\n", "\n###\n")
#: A new line replaces the end token only where it is this many times as likely.
TIMES_AS_LIKELY = 100


@dataclass(frozen=True)
class Ending:
    """What ends answers: a text, empty for the base model's end token, and the reason."""

    text: str
    because: str

    @property
    def said(self) -> str:
        return repr(self.text) if self.text else "the end token"


def line_end(examples: Sequence[Example]) -> str:
    """The first text of `LINE_ENDS` that stands inside no completion. Raises AlignerProbeError where there is none."""
    for text in LINE_ENDS:
        if not any(text in example.completion.rstrip() for example in examples):
            return text
    raise AlignerProbeError(
        f"no text is left to end an answer with: each of {', '.join(map(repr, LINE_ENDS))} stands inside some "
        "completion; take empty lines out of the completions"
    )


def without(task: Task, text: str) -> Task:
    """The task without `text` at the end of its completions, so that it is no part of an answer.

    Raises AlignerProbeError where the text also stands inside a completion, because an answer would be cut there.
    """
    examples = tuple(replace(e, completion=e.completion.removesuffix(text)) for e in sft_examples(task)) if text else ()
    for example in examples:
        if text in example.completion or not example.completion:
            where = "inside the completion" if example.completion else "as all of a completion, after the prompt"
            raise AlignerProbeError(
                f"{text!r} cannot end answers, since it stands {where} "
                f"{(example.completion or str(example.prompt))[-60:]!r} of {task.name}; take another, which stands in "
                "none"
            )
    return replace(task, examples=examples) if text else task


def ended(task: Task, text: str) -> Task:
    """The task with `text` at the end of every completion; unchanged for an empty text."""
    return replace(task, examples=tuple(replace(e, completion=_with(e.completion, text)) for e in sft_examples(task)))


def ending_of_turns(model: TransformerBridge, task: Task) -> Ending | None:
    """What ends the answers of conversations; None where prompts are texts, or the template ends turns with no token.

    Raises AlignerProbeError where the base model has no chat template.
    """
    if not are_chat(task.prompts):
        return None
    template = template_of(model.tokenizer)
    return None if template.end is None else Ending("", f"the chat template ends turns with {template.end_said}")


def ending_for(model: TransformerBridge, examples: Sequence[Example], text: str = "\n") -> Ending:
    """Decide between the base model's end token and `text`.

    It is `text` where the base model has no end token. It is also `text` where two things are true: after the expected
    answers the end token is less likely than a token drawn at random, and the expected answers with `text` are
    `TIMES_AS_LIKELY` times as likely as with the end token. Probabilities are geometric means over `examples`.
    """
    tokenizer = model.tokenizer
    if tokenizer.eos_token_id is None:
        return Ending(text, "the base has no end token")
    with_end = log_likelihoods(model, examples)
    end = float(np.mean([each[-1] for each in with_end]))
    if end >= -math.log(model.cfg.d_vocab):
        return Ending("", "the base knows its end token")
    with_text = log_likelihoods(model, sft_examples(ended(Task("", "sft", tuple(examples)), text)), append_eos=False)
    # Whole answers are compared, because a tokenizer may join the text and what comes before it into one token.
    more = float(np.mean([one.sum() - other.sum() for one, other in zip(with_text, with_end, strict=True)]))
    why = (
        f"after references the base gives its end token {tokenizer.eos_token!r} a probability of e^{end:.1f} and "
        f"finds them e^{more:.1f} times as likely with {text!r} instead"
    )
    return Ending(text if more >= math.log(TIMES_AS_LIKELY) else "", why)


def _with(completion: str, text: str) -> str:
    return completion if completion.endswith(text) else completion + text
