"""Score a model on a task, with whatever adapters are attached."""

from collections.abc import Sequence
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.arguments import a_model, accepts, refuse
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.generation import generate
from aligner_probe.evaluation.guessing import Scorer, guess_scorer, scorer_named, sft_examples
from aligner_probe.evaluation.scorers import TextScorer
from aligner_probe.evaluation.scores import Scores
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Task

#: New tokens over those of the longest reference, so that a wrong form can be told from a cut one.
SPARE_TOKENS = 8


def _scorer(value: Any, where: str) -> Scorer | str:
    if isinstance(value, str) or (hasattr(value, "score") and not isinstance(value, type)):
        return value
    expected = 'a scorer, or the name of one: "exact", "last_number", "python:package.module:function", ...'
    raise refuse(value, where, expected)


@accepts(model=a_model, task=one_task, scorer=_scorer)
def score_task(
    model: TransformerBridge,
    task: Task,
    scorer: Scorer | str | None = None,
    *,
    max_new_tokens: int | None = None,
    stop: Sequence[str] | None = None,
    batch_size: int = 128,
    show_progress: bool = False,
) -> Scores:
    """Generate a greedy answer to each prompt of a task and score it; or score likelihoods, if the scorer asks for
    them.

    Adapters that are attached to the model take part.

    Args:
        model: The base model.
        task: A task of prompts with completions.
        scorer: A scorer, or its name as in the command (`exact`, `last_number`, ...). By default `guess_scorer`
            chooses.
        max_new_tokens: The most tokens of an answer. By default a few more than the longest expected completion has.
        stop: Texts that end an answer. By default a new line, unless an expected completion contains one; none where a
            chat template ends turns.
        batch_size: The most prompts that are run together.
        show_progress: Whether a progress bar is shown.

    Returns:
        The scores of all items, in the order of the task.

    Raises:
        AlignerProbeError: The task holds preferences, or `generate` or the scorer refuses it.
    """
    examples = sft_examples(task)
    if scorer is None:
        scorer = guess_scorer(task).scorer
    elif isinstance(scorer, str):
        scorer = scorer_named(scorer, task)
    if not isinstance(scorer, TextScorer):
        return scorer.score(model, examples)
    completions = generate(
        model,
        task.prompts,
        max_new_tokens=_longest(model, task) + SPARE_TOKENS if max_new_tokens is None else max_new_tokens,
        stop=default_stop(task, model.tokenizer) if stop is None else stop,
        batch_size=batch_size,
        show_progress=show_progress,
    )
    return scorer.score(completions, examples)


def default_stop(task: Task, tokenizer: Any) -> tuple[str, ...]:
    """A new line ends an answer, unless an expected completion contains one, or the chat template ends the turn."""
    if ends_turns(task, tokenizer):
        return ()
    return () if any("\n" in example.completion.rstrip() for example in sft_examples(task)) else ("\n",)


def ends_turns(task: Task, tokenizer: Any) -> bool:
    """Whether the prompts of a task are conversations, and the tokenizer's chat template ends a turn with a token.

    Raises AlignerProbeError where the tokenizer has no chat template.
    """
    return are_chat(task.prompts) and template_of(tokenizer).end is not None


def _longest(model: TransformerBridge, task: Task) -> int:
    if model.tokenizer is None:
        raise AlignerProbeError("this base has no tokenizer, so it cannot be asked anything; load it with one")
    completions = [example.completion for example in sft_examples(task)]
    rows = model.tokenizer(completions, add_special_tokens=False)["input_ids"]
    return max(map(len, rows))
