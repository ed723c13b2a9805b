"""The token ids of a task's examples, and batches of them.

Prompt and completion are tokenised separately and then joined. So no token crosses the boundary between them, and the
prompt's ids are those that the model sees when it is asked. A tokenizer that puts a space before every text
(SentencePiece) puts one before the completion too. If the completion begins with a space, that space is this one, and
there is no second.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Int, Int64
from torch import Tensor

from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.tasks.characters import lost_characters, token_ids
from aligner_probe.tasks.task import Example, Kind, Preference, Task, fault_of_text

Overlong = Literal["truncate", "drop", "refuse"]

#: What torch's cross-entropy leaves out unless told otherwise.
IGNORED = -100
#: Texts that tell what a tokenizer puts around every text.
TRIALS = ("a", "1", "the")

FULL = "a prompt that leaves no room for a completion"
LONG = "more tokens than fit"
EQUAL = "chosen and rejected with the same tokens"


@dataclass(frozen=True, eq=False)
class Tokens:
    """One sequence. `labels` are the ids where they are trained, and -100 elsewhere. The first `n_prompt` ids are the
    prompt.
    """

    input_ids: Int64[Tensor, " pos"]
    labels: Int64[Tensor, " pos"]
    n_prompt: int

    def __len__(self) -> int:
        return self.input_ids.shape[0]


@dataclass(frozen=True, eq=False)
class Encoded:
    """The sequences of a task that fit: one an example, two where it is a preference.

    `kept` are the examples' indices in the task, in order; `n_truncated` of them lost the end of a completion, and
    `n_dropped` others are missing, for the reasons counted in `dropped`. `lost` counts the characters in the task that
    the tokenizer does not give back, by share of all: some small ones leave out what they do not know, without a sign.
    `rule` says all this in sentences.
    """

    kind: Kind
    sequences: tuple[Tokens, ...]
    rejected: tuple[Tokens, ...] | None
    kept: tuple[int, ...]
    n_truncated: int
    dropped: dict[str, int]
    lost: dict[str, float]
    rule: str

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def n(self) -> int:
        """Examples kept."""
        return len(self.sequences)

    @property
    def n_dropped(self) -> int:
        return sum(self.dropped.values())

    @property
    def n_trained(self) -> int:
        """The number of tokens with a label in all sequences. The first token of a sequence has no label, as nothing is
        before it.
        """
        return sum(int((tokens.labels[1:] != IGNORED).sum()) for tokens in [*self.sequences, *(self.rejected or ())])

    @property
    def chosen(self) -> tuple[Tokens, ...]:
        """The same as `sequences`, under the name that it has in a preference."""
        return self.sequences

    @property
    def input_ids(self) -> list[Int64[Tensor, " _pos"]]:
        return [tokens.input_ids for tokens in self.sequences]

    @property
    def labels(self) -> list[Int64[Tensor, " _pos"]]:
        return [tokens.labels for tokens in self.sequences]


def encode(
    task: Task,
    tokenizer: Any,
    *,
    max_length: int,
    mask_prompt: bool = True,
    overlong: Overlong | str = "truncate",
    append_eos: bool = True,
    d_vocab: int | None = None,
    find_lost: bool = True,
) -> Encoded:
    """Token ids of every example, at most `max_length` a sequence.

    A sequence is the tokenizer's start token (where it puts one by itself), the prompt, the completion and the
    tokenizer's end token (where it has one, unless `append_eos` is off). The prompt carries no labels unless
    `mask_prompt` is off. `overlong` says what happens to longer ones: the completion's end is cut off ("truncate"; the
    prompt never is, and an example whose prompt leaves no room is dropped), the example is left out ("drop"), or the
    task is refused ("refuse"). A preference goes as a whole, also where both answers have the same tokens. Unless
    `find_lost`, the characters that the tokenizer loses are not looked for and not said.

    `tokenizer` is called as those of transformers are. `d_vocab` is the number of rows of the base's embedding. Raises
    AlignerProbeError, naming the line, for a completion without tokens, for a token whose id is `d_vocab` or more, and
    for what is refused; also where nothing is left.
    """
    if isinstance(max_length, bool) or max_length < 2:
        raise AlignerProbeError(
            f"a context of {max_length!r} tokens holds no prompt and completion; expected 2 or more"
        )
    how: Overlong = one_of(overlong, get_args(Overlong), "overlong")
    bos, eos = put_around(tokenizer)[0], _end(tokenizer) if append_eos else []
    prompts = prompt_ids(tokenizer, task.prompts)
    fields = ("completion",) if task.kind == "sft" else ("chosen", "rejected")
    answers = [
        token_ids(tokenizer, after_prompts(tokenizer, [getattr(example, field) for example in task.examples]))
        for field in fields
    ]
    kept: list[int] = []
    sequences: list[tuple[Tokens, ...]] = []
    dropped: Counter[str] = Counter()
    n_truncated = 0
    for index, (example, prompt, *completions) in enumerate(zip(task.examples, prompts, *answers, strict=True)):
        for field, completion in zip(fields, completions, strict=True):
            if not completion or len(prompt) + len(completion) + len(eos) < 2:
                raise AlignerProbeError(
                    f"{_place(task, example, index)}: the {field} has no tokens that could be learned "
                    f"({getattr(example, field)[:40]!r}); expected at least one. Remove the row, or take the "
                    "tokenizer of a model that knows its characters"
                )
        ended = [_with_end(completion, eos) for completion in completions]
        if d_vocab is not None:
            check_ids(tokenizer, [*prompt, *itertools.chain(*ended)], d_vocab, _place(task, example, index))
        length = len(prompt) + max(map(len, ended))
        cut = [completion[: max(0, max_length - len(prompt))] for completion in ended]
        reason = _reason_to_drop(len(prompt), length, cut, max_length, how)
        if reason is None:
            kept.append(index)
            n_truncated += length > max_length
            sequences.append(tuple(_tokens(prompt, completion, mask_prompt) for completion in cut))
        elif how == "refuse":
            raise AlignerProbeError(
                f"{_place(task, example, index)}: has {reason} (prompt {len(prompt)}, with the answer {length}, of "
                f"{max_length}); expected examples that fit and differ. Give --overlong truncate or drop, a greater "
                "--max-length, or remove the row"
            )
        else:
            dropped[reason] += 1
    if not kept:
        reasons = ", ".join(f"{count} for {reason}" for reason, count in dropped.items())
        raise AlignerProbeError(
            f"task {task.name!r}: none of its {len(task)} examples is left with {max_length} tokens: {reasons}; "
            "expected at least one. Give a greater --max-length, a model with a longer context, or shorter examples"
        )
    lost = lost_characters(tokenizer, task, _known(task, prompts, fields, answers)) if find_lost else None
    return Encoded(
        kind=task.kind,
        sequences=tuple(pair[0] for pair in sequences),
        rejected=None if task.kind == "sft" else tuple(pair[1] for pair in sequences),
        kept=tuple(kept),
        n_truncated=n_truncated,
        dropped=dict(dropped),
        lost={} if lost is None else lost.characters,
        rule=_rule(bool(bos), bool(eos), mask_prompt, how, max_length, len(task), n_truncated, dropped)
        + ("" if lost is None else f" {lost.said}")
        + (f" {lost.way_on}" if lost is not None and lost.template is not None else ""),
    )


def prompt_ids(tokenizer: Any, prompts: Sequence[str] | Any) -> list[list[int]]:
    """Ids of prompts: those that `tokenizer(prompt)` gives, except for two things that the tokenizer puts by itself.

    An end token behind the prompt is left out, because it would end the prompt before it is answered. Start tokens that
    stand in the prompt already, as in one that a chat template made, are not put a second time. Raises
    AlignerProbeError for a prompt that is no text, naming its index.
    """
    prompts = list(prompts)
    for index, prompt in enumerate(prompts):
        if fault := fault_of_text(prompt):
            raise AlignerProbeError(f"prompt {index}, from zero, {fault}; expected a text of whole characters")
    if not prompts:
        return []
    start, end = put_around(tokenizer)
    eos, n = _end(tokenizer), len(start)
    found = []
    for ids in tokenizer(prompts, verbose=False)["input_ids"]:
        if end and end[-1:] == eos:
            ids = ids[:-1]
        found.append(ids[n:] if n and ids[:n] == start == ids[n : 2 * n] else ids)
    return found


def pad_id(tokenizer: Any, d_vocab: int) -> int:
    """A token id for masked positions: the tokenizer's pad token if the embedding's `d_vocab` rows have it, else 0."""
    found = getattr(tokenizer, "pad_token_id", None)
    return found if isinstance(found, int) and 0 <= found < d_vocab else 0


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


def after_prompts(tokenizer: Any, completions: Sequence[str]) -> list[str]:
    """Completions as they are tokenised by themselves: without a space at the start that the tokenizer would double."""
    a, spaced, b = token_ids(tokenizer, ["a", " a", "b"])
    if spaced[1:] != a or decoded(tokenizer, b + a).strip() != "b a":
        return list(completions)
    return [text[1:] if text[:1] == " " and text.strip() else text for text in completions]


def collate(
    examples: Sequence[Tokens], pad_id: int, *, pad_to: int | None = None
) -> dict[str, Int[Tensor, "batch pos"]]:
    """Make a batch, padded on the right: `input_ids` with `pad_id`, `labels` with -100, `attention_mask` with 0.

    The batch is as long as the longest example, or `pad_to`. Raises AlignerProbeError if there is no example, or if one
    is longer.
    """
    longest = max((len(example) for example in examples), default=0)
    length = longest if pad_to is None else pad_to
    if not longest or longest > length:
        found = f"a sequence of {longest} tokens" if longest else "no examples"
        raise AlignerProbeError(f"cannot make a batch of {length} positions of {found}; expected some that fit")
    batch = {
        "input_ids": torch.full((len(examples), length), pad_id, dtype=torch.int64),
        "labels": torch.full((len(examples), length), IGNORED, dtype=torch.int64),
        "attention_mask": torch.zeros((len(examples), length), dtype=torch.int64),
    }
    for row, example in enumerate(examples):
        batch["input_ids"][row, : len(example)] = example.input_ids
        batch["labels"][row, : len(example)] = example.labels
        batch["attention_mask"][row, : len(example)] = 1
    return batch


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


def _end(tokenizer: Any) -> list[int]:
    eos = getattr(tokenizer, "eos_token_id", None)
    return [] if eos is None else [eos]


def _known(
    task: Task, prompts: list[list[int]], fields: Sequence[str], answers: Sequence[list[list[int]]]
) -> dict[str, list[int]]:
    """Token ids by text, of all prompts and answers of a task."""
    found = dict(zip(task.prompts, prompts, strict=True))
    for name, rows in zip(fields, answers, strict=True):
        found |= zip((getattr(example, name) for example in task.examples), rows, strict=True)
    return found


def _with_end(ids: list[int], eos: list[int]) -> list[int]:
    return ids if eos and ids[-1:] == eos else ids + eos


def _reason_to_drop(
    n_prompt: int, length: int, cut: Sequence[list[int]], max_length: int, overlong: Overlong
) -> str | None:
    if n_prompt >= max_length:
        return FULL
    if length > max_length and overlong != "truncate":
        return LONG
    return EQUAL if len(cut) == 2 and cut[0] == cut[1] else None


def _tokens(prompt: list[int], completion: list[int], mask_prompt: bool) -> Tokens:
    input_ids = torch.tensor(prompt + completion, dtype=torch.int64)
    labels = input_ids.clone()
    if mask_prompt:
        labels[: len(prompt)] = IGNORED
    return Tokens(input_ids, labels, len(prompt))


def _place(task: Task, example: Example | Preference, index: int) -> str:
    return f"{task.source or task.name}, " + (f"line {example.line}" if example.line else f"example {index}, from zero")


def _rule(
    bos: bool,
    eos: bool,
    mask_prompt: bool,
    overlong: Overlong,
    max_length: int,
    n: int,
    n_truncated: int,
    dropped: Counter[str],
) -> str:
    ends = " and ".join(["the start token before"] * bos + ["the end token after"] * eos) or "no special tokens"
    long = {
        "truncate": f"longer ones lost the end of the completion, never of the prompt ({n_truncated} of {n})",
        "drop": f"longer ones were dropped ({dropped[LONG]} of {n})",
        "refuse": "longer ones would have been refused",
    }[overlong]
    others = "".join(f"; dropped for {reason}: {dropped[reason]}" for reason in (FULL, EQUAL) if dropped[reason])
    return (
        f"Prompt and completion were tokenised apart, with {ends}, at most {max_length} tokens; {long}{others}. "
        f"Trained on {'the completion' if mask_prompt else 'the whole sequence'}."
    )
