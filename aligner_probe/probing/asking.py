"""The cell of a probe that trains nothing: the base model is asked in every way, and validation chooses the best."""

from dataclasses import asdict
from typing import Any

import numpy as np

from aligner_probe.arms.names import BASE, CONSTANT, PROMPT
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation import generate
from aligner_probe.evaluation.guessing import sft_examples
from aligner_probe.probing.bench import ProbeBench, first
from aligner_probe.probing.knowing import known_items
from aligner_probe.probing.prompts import Control, Prompting, control, fitting, most_shown, promptings
from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.tokenizing import prompt_ids

#: The most tokens of an answer that the control of prompting wraps. There is room for as many in every context.
CONTROL_TOKENS = 16
#: The most tokens of a wrapped answer, where the context has room. A chat model answers in sentences, and one that is
#: cut off before its closing quote would count against prompting.
WRAPPED_TOKENS = 40
#: A conversation that a template without system messages refuses.
WITH_SYSTEM = Conversation([Message("system", "Answer in one word."), Message("user", "Who is it?")])


def asked_without_training(bench: ProbeBench) -> dict[str, Any]:
    """Ask the base model in every way, and ask the test items as validation chooses.

    Every way to ask is asked the same items. Raises AlignerProbeError where no prompt fits into the context.
    """
    budget, parts = bench.budget, bench.parts
    validation = first(parts.validation, budget.n_validation)
    tried, refused = ways_to_ask(bench)
    items = [*sft_examples(validation), *sft_examples(parts.test)]
    room = bench.model.cfg.n_ctx - _longest_answer(bench)
    fit = fitting(tried, items, bench.model.tokenizer, room)
    if not fit.kept:
        raise AlignerProbeError(
            f"no prompt of the task fits into the context of {bench.model.cfg.n_ctx} tokens, {room:,} of them for it; "
            "leave long prompts out, or take a base with a longer context"
        )
    validated = {one.name: bench.asked(validation, one)[0] for one in fit.kept}
    means = {
        name: {which: float(np.mean(values)) for which, values in scores.items()} for name, scores in validated.items()
    }
    kinds = next(iter(validated.values())).keys()
    chosen = {which: max(means, key=lambda name: means[name][which]) for which in kinds}
    base, said = bench.asked(parts.test)
    by_name = {one.name: one for one in fit.kept}
    asked = {name: bench.asked(parts.test, by_name[name]) for name in set(chosen.values())}
    prompt = {which: asked[name][0][which] for which, name in chosen.items()}
    knows = known_items(bench, validation, room, base["content"])
    answer, constant = bench.constant()
    scores = {BASE: base, PROMPT: prompt, CONSTANT: constant}
    scores[BASE]["likelihood"] = bench.likelihoods(parts.test)
    scores[PROMPT]["likelihood"] = bench.likelihoods(parts.test, by_name[chosen["strict"]])
    return {
        "scores": scores,
        "completions": {BASE: said, PROMPT: asked[chosen["strict"]][1]},
        "knows": knows,
        "validation": means,
        "left_out": [*refused, *fit.left_out],
        "full_marks": bench.full_marks(),
        "most_shots": most_shown(fit.kept, items),
        "chosen": chosen,
        "prompt_text": bench.shown(by_name[chosen["strict"]](sft_examples(parts.test)[0])),
        "constant_answer": answer,
        "control": _control(bench),
        "off_domain": bench.kept(),
        **({"lost_examples": {"items": len(items), "by_prompt": fit.lost}} if fit.lost else {}),
    }


def ways_to_ask(bench: ProbeBench) -> tuple[list[Prompting], list[str]]:
    """All ways to ask that a probe tries, and those that the chat template refuses, each with the reason."""
    budget, parts = bench.budget, bench.parts
    shown = sft_examples(bench.as_trained(parts.train))
    chat = are_chat(parts.train.prompts)
    system = chat and bool(bench.describe) and _takes_system(bench)
    tried = promptings(
        shown,
        budget.shots,
        budget.draws,
        separator=bench.separator,
        own=bench.own_prompt,
        describe=bench.describe,
        chat=chat,
        system=system,
    )
    refused = [
        f"description {index} as the system message: the chat template refuses system messages"
        for index, _ in enumerate(bench.describe, 1)
        if chat and not system
    ]
    return tried, refused


def _takes_system(bench: ProbeBench) -> bool:
    """Whether the chat template writes what a system message says."""
    try:
        template_of(bench.model.tokenizer).prompt_text(WITH_SYSTEM)
    except AlignerProbeError:
        return False
    return True


def _control(bench: ProbeBench) -> dict[str, Any] | None:
    """The positive control of prompting, on items of another domain where there are any, else on training items."""
    task = bench.off_domain or bench.parts.train
    task = first(task, bench.budget.n_off_domain)
    answers = generate(bench.model, task.prompts, max_new_tokens=CONTROL_TOKENS, stop=["\n"])
    try:
        room = bench.model.cfg.n_ctx - CONTROL_TOKENS
        made: Control = control(sft_examples(task), answers, bench.model.tokenizer, room=room)
    except AlignerProbeError as reason:
        return {"reason": str(reason)}
    left = bench.model.cfg.n_ctx - max(map(len, prompt_ids(bench.model.tokenizer, made.prompts)))
    said = generate(bench.model, made.prompts, max_new_tokens=min(WRAPPED_TOKENS, left), stop=["\n"])
    return asdict(made.score(said)) | {
        "wrapping": made.wrapping.name,
        "completions": said,
        "prompt": bench.shown(made.prompts[0]),
    }


def _longest_answer(bench: ProbeBench) -> int:
    tasks = (bench.parts.test, bench.parts.validation)
    texts = [example.completion for task in tasks for example in sft_examples(task)]
    return max(map(len, bench.model.tokenizer(texts, add_special_tokens=False)["input_ids"])) + CONTROL_TOKENS
