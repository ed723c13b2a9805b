"""Refuses scorers that reject the expected answers, and tasks that do not fit the base model, before any training."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from aligner_probe.arms.catalogue import ARMS
from aligner_probe.arms.names import PROMPT_TUNING
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.guessing import Scorer, sft_examples
from aligner_probe.evaluation.likelihood import MultipleChoice
from aligner_probe.evaluation.scorers import TextScorer
from aligner_probe.models import embedding_rows
from aligner_probe.probing.bench import ProbeBench
from aligner_probe.probing.splitting import Parts
from aligner_probe.probing.verdicts.conditions import forbids_a_verdict
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS
from aligner_probe.tasks.characters import LostCharacters
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.task import Task
from aligner_probe.tasks.token_rows import place_of
from aligner_probe.tasks.tokenizing import check_ids, decoded, prompt_ids


def check_scorer(scorer: Scorer, parts: Parts) -> None:
    """Raise AlignerProbeError where the scorer rejects the expected answers themselves."""
    for part in (parts.validation, parts.test):
        if isinstance(scorer, MultipleChoice):
            scorer.check(sft_examples(part))
        share, worst = _share_right(scorer, part, [example.completion for example in sft_examples(part)])
        if share < THRESHOLDS.learned:
            rejected = sft_examples(part)[worst].completion[:60]
            raise AlignerProbeError(
                f"by {scorer!r} the references of {part.name} themselves score {share:.2f}, for instance "
                f"{rejected!r}, and {THRESHOLDS.learned:g} is expected of a model that "
                "has learned it; give a scorer that accepts them. A pattern must fit the whole answer"
            )


def lost_note(lost: LostCharacters) -> str:
    """What the tokenizer loses, on one line, and whether there can be a verdict all the same."""
    if not forbids_a_verdict(lost, THRESHOLDS):
        return lost.said
    return f"{lost.said} There will be no verdict: the outcome is undetermined. {lost.way_on}"


def check_tokens(bench: ProbeBench) -> None:
    """Raise AlignerProbeError where the base model cannot write the expected answers.

    That is so where its tokenizer does not give them back, its embedding lacks one of their tokens, or a prompt leaves
    no room for an answer in its context; in conversations also where its chat template is missing or refuses one.
    """
    positions = ARMS[PROMPT_TUNING].n_tokens or 0 if PROMPT_TUNING in bench.budget.arms else 0
    tokenizer = bench.model.tokenizer
    if bench.off_domain is not None:
        _check_conversations(tokenizer, bench.off_domain)
    for part in (bench.parts.validation, bench.parts.test):
        wanted = [example.completion for example in sft_examples(part)]
        ids = tokenizer(wanted, add_special_tokens=False)["input_ids"]
        back = [decoded(tokenizer, row) for row in ids]
        share, worst = _share_right(bench.scorer, part, back)
        if share < THRESHOLDS.learned:
            lost = Counter("".join(wanted)) - Counter("".join(back))
            signs = "".join(sign for sign, _ in lost.most_common(20) if not sign.isspace())
            raise AlignerProbeError(
                f"the base's tokenizer does not give back the references of {part.name}: {wanted[worst][:60]!r} comes "
                f"back as {back[worst][:60]!r}, so that they score {share:.2f}, and {THRESHOLDS.learned:g} is expected "
                f"of a model that has learned it; characters it loses: {signs or 'none but white space'}. Take a base "
                "that knows them, or leave them out"
            )
        _check_conversations(tokenizer, part)
        prompts = prompt_ids(tokenizer, part.prompts)
        for example, prompt, answer in zip(part.examples, prompts, ids, strict=True):
            where = f"{part.name}, {part.unit} {example.line}"
            check_ids(tokenizer, prompt + answer, embedding_rows(bench.model), where)
        room = bench.room(part, positions)
        long = [(example, len(row)) for example, row in zip(part.examples, prompts, strict=True) if len(row) > room]
        if long:
            example, n = long[0]
            raise AlignerProbeError(
                f"{len(long)} of {len(part)} prompts to ask are too long, the first on {part.unit} {example.line} with "
                f"{n} tokens ({str(example.prompt)[:40]!r}): {room} fit into the context of {bench.model.cfg.n_ctx} "
                f"beside the longest answer{f' and {positions} positions of {PROMPT_TUNING}' if positions else ''}; "
                "leave them out, or take a base with a longer context"
            )


def _check_conversations(tokenizer: Any, part: Task) -> None:
    """Raise AlignerProbeError, naming the line, where a chat template refuses a conversation."""
    if are_chat(part.prompts):
        template = template_of(tokenizer)
        for index, (example, prompt) in enumerate(zip(part.examples, part.prompts, strict=True)):
            template.prompt_text(prompt, place_of(part, example, index))


def _share_right(scorer: Scorer, part: Task, texts: Sequence[str]) -> tuple[float, int]:
    """The mean strict score of texts, and the index of the worst; 1 and 0 for a scorer that reads no texts."""
    if not isinstance(scorer, TextScorer):
        return 1.0, 0
    scores = scorer.score(texts, sft_examples(part))
    return scores.mean("strict"), int(np.argmin(scores.strict))
