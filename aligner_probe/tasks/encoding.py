"""The token ids of a task's examples, and batches of them.

Prompt and completion are tokenised separately and then joined. So no token crosses the boundary between them, and the
prompt's ids are those that the model sees when it is asked. A tokenizer that puts a space before every text
(SentencePiece) puts one before the completion too. If the completion begins with a space, that space is this one, and
there is no second. Conversations are tokenised as the chat template writes them (`token_rows.py`).
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
from aligner_probe.tasks.characters import lost_characters
from aligner_probe.tasks.chat_template import ChatTemplate, are_chat, template_of, untemplated_note
from aligner_probe.tasks.task import Kind, Task
from aligner_probe.tasks.token_rows import Row, TrainOn, chat_rows, place_of, text_rows
from aligner_probe.tasks.tokenizing import check_ids, end_ids, put_around

Overlong = Literal["truncate", "drop", "refuse"]

#: What torch's cross-entropy leaves out unless told otherwise.
IGNORED = -100

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
    train_on: TrainOn | str = "last",
    after_end: bool = True,
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

    A conversation is the text of the tokenizer's chat template, with its own start token and with its own end of the
    turn (which `append_eos` off leaves out). Labels are on the "last" answer, or with `train_on` "all" on every turn of
    the assistant. Without `after_end`, what the template writes behind the last end token (a new line, in most of them)
    is left out.

    `tokenizer` is called as those of transformers are. `d_vocab` is the number of rows of the base's embedding. Raises
    AlignerProbeError, naming the line, for a completion without tokens, for a token whose id is `d_vocab` or more, and
    for what is refused, by the chat template too; also where nothing is left.
    """
    if isinstance(max_length, bool) or max_length < 2:
        raise AlignerProbeError(
            f"a context of {max_length!r} tokens holds no prompt and completion; expected 2 or more"
        )
    how: Overlong = one_of(overlong, get_args(Overlong), "overlong")
    turns: TrainOn = one_of(train_on, get_args(TrainOn), "train_on")
    fields = ("completion",) if task.kind == "sft" else ("chosen", "rejected")
    eos = end_ids(tokenizer) if append_eos else []
    template = template_of(tokenizer) if are_chat(task.prompts) else None
    _check_turns(task, turns, template)
    if template is None:
        rows = text_rows(tokenizer, task, fields, eos)
    else:
        rows = chat_rows(template, task, fields, eos, train_on=turns, ended=append_eos, after_end=after_end)
    kept: list[int] = []
    sequences: list[tuple[Tokens, ...]] = []
    dropped: Counter[str] = Counter()
    n_truncated = 0
    for index, (example, row) in enumerate(zip(task.examples, rows, strict=True)):
        for field, bare in zip(fields, row.bare, strict=True):
            if not bare or len(row.prompt) + len(bare) + len(eos) < 2:
                raise AlignerProbeError(
                    f"{place_of(task, example, index)}: the {field} has no tokens that could be learned "
                    f"({getattr(example, field)[:40]!r}); expected at least one. Remove the row, or take the "
                    "tokenizer of a model that knows its characters"
                )
        if d_vocab is not None:
            ids = [*row.prompt, *itertools.chain(*row.answers)]
            check_ids(tokenizer, ids, d_vocab, place_of(task, example, index))
        length = len(row.prompt) + max(map(len, row.answers))
        cut = [answer[: max(0, max_length - len(row.prompt))] for answer in row.answers]
        reason = _reason_to_drop(len(row.prompt), length, cut, max_length, how)
        if reason is None:
            kept.append(index)
            n_truncated += length > max_length
            sequences.append(_sequences(row, cut, mask_prompt))
        elif how == "refuse":
            raise AlignerProbeError(
                f"{place_of(task, example, index)}: has {reason} (prompt {len(row.prompt)}, with the answer {length}, "
                f"of {max_length}); expected examples that fit and differ. Give --overlong truncate or drop, a greater "
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
    known = _known(task, rows, fields) if template is None else None
    lost = lost_characters(tokenizer, task, known) if find_lost else None
    how_made = _how_texts(tokenizer, eos) if template is None else _how_chat(template, rows, eos)
    return Encoded(
        kind=task.kind,
        sequences=tuple(pair[0] for pair in sequences),
        rejected=None if task.kind == "sft" else tuple(pair[1] for pair in sequences),
        kept=tuple(kept),
        n_truncated=n_truncated,
        dropped=dict(dropped),
        lost={} if lost is None else lost.characters,
        rule=f"{how_made}, {_cut(how, max_length, len(task), n_truncated, dropped)}. Trained on "
        f"{_trained(template, turns) if mask_prompt else 'the whole sequence'}."
        + ("" if lost is None else f" {lost.said}")
        + (f" {lost.way_on}" if lost is not None and lost.template is not None else "")
        + f" {untemplated_note(tokenizer, task.prompts)}".rstrip(),
    )


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


def _check_turns(task: Task, train_on: TrainOn, template: ChatTemplate | None) -> None:
    """Raise AlignerProbeError where all turns are to be trained and there are none but the last, or no such loss."""
    if train_on == "last" or (template is not None and task.kind == "sft"):
        return
    said = (
        f"task {task.name!r} has prompts that are texts, without turns (--loss-on all trains on prompts)"
        if template is None
        else f"task {task.name!r} holds preferences, whose earlier turns are the same for both answers"
    )
    raise AlignerProbeError(f"train_on 'all': {said}; expected train_on 'last' (--train-on last)")


def _known(task: Task, rows: Sequence[Row], fields: Sequence[str]) -> dict[str, list[int]]:
    """Token ids by text, of all prompts and answers of a task whose prompts are texts."""
    known = {str(example.prompt): row.prompt for example, row in zip(task.examples, rows, strict=True)}
    for index, name in enumerate(fields):
        known |= {getattr(example, name): row.bare[index] for example, row in zip(task.examples, rows, strict=True)}
    return known


def _reason_to_drop(
    n_prompt: int, length: int, cut: Sequence[list[int]], max_length: int, overlong: Overlong
) -> str | None:
    if n_prompt >= max_length:
        return FULL
    if length > max_length and overlong != "truncate":
        return LONG
    return EQUAL if len(cut) == 2 and cut[0] == cut[1] else None


def _sequences(row: Row, cut: Sequence[list[int]], mask_prompt: bool) -> tuple[Tokens, ...]:
    """The sequences of a row whose answers were cut to fit."""
    made = []
    for index, answer in enumerate(cut):
        input_ids = torch.tensor(row.prompt + answer, dtype=torch.int64)
        labels = input_ids.clone()
        if mask_prompt and row.trained is None:
            labels[: len(row.prompt)] = IGNORED
        elif mask_prompt and row.trained is not None:
            labels[~torch.tensor(row.trained[index][: len(labels)], dtype=torch.bool)] = IGNORED
        made.append(Tokens(input_ids, labels, len(row.prompt)))
    return tuple(made)


def _how_texts(tokenizer: Any, eos: Sequence[int]) -> str:
    parts = ["the start token before"] * bool(put_around(tokenizer)[0]) + ["the end token after"] * bool(eos)
    return f"Prompt and completion were tokenised apart, with {' and '.join(parts) or 'no special tokens'}"


def _how_chat(template: ChatTemplate, rows: Sequence[Row], eos: Sequence[int]) -> str:
    ends = f"turns end with {template.end_said}"
    if template.end is None and eos:
        ends = "the end token after, since the template writes no special token there"
    apart = sum(row.apart for row in rows)
    said = f"; in {apart} of {len(rows)} examples a token reaches over the prompt's end, so prompt and answer were "
    return f"Conversations were tokenised as {template.said} writes them; {ends}" + (
        f"{said}tokenised apart" if apart else ""
    )


def _trained(template: ChatTemplate | None, train_on: TrainOn) -> str:
    if template is None:
        return "the completion"
    if train_on == "last":
        return "the last answer and what ends it"
    by = "as the template marks them" if template.has_marks else "by the template's own prefixes"
    return f"all answers of the assistant and what ends them, {by}"


def _cut(overlong: Overlong, max_length: int, n: int, n_truncated: int, dropped: Counter[str]) -> str:
    long = {
        "truncate": f"longer ones lost the end of the completion, never of the prompt ({n_truncated} of {n})",
        "drop": f"longer ones were dropped ({dropped[LONG]} of {n})",
        "refuse": "longer ones would have been refused",
    }[overlong]
    others = "".join(f"; dropped for {reason}: {dropped[reason]}" for reason in (FULL, EQUAL) if dropped[reason])
    return f"at most {max_length} tokens; {long}{others}"
