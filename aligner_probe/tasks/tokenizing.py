"""What a tokenizer makes of prompts and answers, and what it puts around texts."""

from collections.abc import Sequence
from typing import Any

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks.characters import token_ids
from aligner_probe.tasks.chat import Prompt
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.task import fault_of_prompt

#: Texts that tell what a tokenizer puts around every text.
TRIALS = ("a", "1", "the")


def prompt_ids(tokenizer: Any, prompts: Sequence[Prompt] | Any) -> list[list[int]]:
    """Ids of prompts: those that `tokenizer(prompt)` gives, except for two things that the tokenizer puts by itself.

    An end token behind the prompt is left out, because it would end the prompt before it is answered. Start tokens that
    stand in the prompt already, as in one that a chat template made, are not put a second time. Conversations have the
    ids of the text that the tokenizer's chat template makes of them, up to where the answer begins. Raises
    AlignerProbeError for a prompt that is neither a text nor a conversation, naming its index, where there are both,
    and where the template refuses one.
    """
    prompts = list(prompts)
    for index, prompt in enumerate(prompts):
        if fault := fault_of_prompt(prompt):
            raise AlignerProbeError(f"prompt {index}, from zero, {fault}; expected a text of whole characters")
    if not prompts:
        return []
    if are_chat(prompts):
        template = template_of(tokenizer)
        texts = [template.prompt_text(prompt, f"prompt {index}, from zero") for index, prompt in enumerate(prompts)]
        return token_ids(tokenizer, texts)
    start, end = put_around(tokenizer)
    eos, n = end_ids(tokenizer), len(start)
    rows = []
    for ids in tokenizer(prompts, verbose=False)["input_ids"]:
        if end and end[-1:] == eos:
            ids = ids[:-1]
        rows.append(ids[n:] if n and ids[:n] == start == ids[n : 2 * n] else ids)
    return rows


def after_prompts(tokenizer: Any, completions: Sequence[str]) -> list[str]:
    """Completions as they are tokenised by themselves: without a space at the start that the tokenizer would double."""
    a, spaced, b = token_ids(tokenizer, ["a", " a", "b"])
    if spaced[1:] != a or decoded(tokenizer, b + a).strip() != "b a":
        return list(completions)
    return [text[1:] if text[:1] == " " and text.strip() else text for text in completions]


def decoded(tokenizer: Any, ids: list[int]) -> str:
    """The exact text of token ids: special tokens are left out, and spaces are not cleaned up."""
    return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def put_around(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer puts before every text, and the ids that it puts behind every text.

    The attributes of the tokenizer do not always say this, so texts are tokenised with and without them. If the ids of
    the texts allow more than one answer (for instance, all are the unknown token), BOS is assumed to be before them.
    """
    plain = token_ids(tokenizer, TRIALS)
    usual = tokenizer(list(TRIALS), verbose=False)["input_ids"]
    possible: set[tuple[tuple[int, ...], tuple[int, ...]]] | None = None
    for bare, whole in zip(plain, usual, strict=True):
        places = range(len(whole) - len(bare) + 1)
        cuts = {(tuple(whole[:i]), tuple(whole[i + len(bare) :])) for i in places if whole[i : i + len(bare)] == bare}
        possible = cuts if possible is None else possible & cuts
    if not possible:
        return [], []
    bos = getattr(tokenizer, "bos_token_id", None)
    before, behind = max(possible, key=lambda cut: (cut[0][:1] == (bos,)) - len(cut[0]) / 1000)
    return list(before), list(behind)


def end_ids(tokenizer: Any) -> list[int]:
    """The id of the tokenizer's end token, in a list; an empty list where it has none."""
    eos = getattr(tokenizer, "eos_token_id", None)
    return [] if eos is None else [eos]


def check_ids(tokenizer: Any, ids: Sequence[int], d_vocab: int, place: str) -> None:
    """Raises AlignerProbeError for a token whose id the embedding, of `d_vocab` rows, has not; `place` says where."""
    beyond = next((token_id for token_id in ids if token_id >= d_vocab), None)
    if beyond is None:
        return
    names = [name for name in ("bos", "eos") if getattr(tokenizer, f"{name}_token_id", None) == beyond]
    role = f", the tokenizer's {names[0].upper()}," if names else ""
    raise AlignerProbeError(
        f"{place}: token {tokenizer.decode([beyond])!r}{role} has the id {beyond}, but the base's embedding has only "
        f"{d_vocab} rows; expected ids from 0 to {d_vocab - 1}. Take the token out of the texts, or give the base a "
        "row for it (resize_token_embeddings) and save it"
    )


def pad_id(tokenizer: Any, d_vocab: int) -> int:
    """A token id for masked positions: the tokenizer's pad token if the embedding's `d_vocab` rows have it, else 0."""
    own = getattr(tokenizer, "pad_token_id", None)
    return own if isinstance(own, int) and 0 <= own < d_vocab else 0
