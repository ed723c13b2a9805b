r"""Answers to many prompts at once. In float32, greedy ones are those of one prompt at a time without a cache.

    with adapter.attached():
        texts = generate(model, task.prompts, max_new_tokens=40, stop=["\n"])

Prompts are sorted by length, so the rows of a batch need little or no padding. Keys and values are cached, and finished
rows leave the batch. If each row has its own adapter (adapters/rows.py), the adapter stays with its row.
A conversation is asked as the chat template of the base model's tokenizer writes it, and the token that ends a turn
there ends its answer.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import DynamicCache

from aligner_probe.adapters.adapter import Adapter, attached_positions, attached_to, selected_rows
from aligner_probe.arguments import a_model, accepts, texts
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning
from aligner_probe.evaluation.by_adapter import adapters_given, each_its_adapter, which_given
from aligner_probe.evaluation.given_prompts import prompts_given
from aligner_probe.evaluation.sampling import Picker, Sampling, greedy, sampling_for, seeds_given
from aligner_probe.models import embedding_rows, threads_for
from aligner_probe.tasks.chat import Prompt
from aligner_probe.tasks.chat_template import are_chat, template_of, untemplated_note
from aligner_probe.tasks.task import fault_of_text
from aligner_probe.tasks.tokenizing import check_ids, decoded, prompt_ids
from aligner_probe.threads import using
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training.common_start import new_cache, start_for_all, tokens_in_common

#: Told the new tokens of a row, says whether it is finished.
Ending = Callable[[list[int]], bool]


@accepts(model=a_model, prompts=prompts_given, stop=texts, adapters=adapters_given, which=which_given, seed=seeds_given)
def generate(
    model: TransformerBridge,
    prompts: Sequence[Prompt] | Any,
    *,
    max_new_tokens: int = 32,
    stop: Sequence[str] | Any = (),
    batch_size: int = 128,
    show_progress: bool = False,
    adapters: Sequence[Adapter] | Any = None,
    which: Sequence[int | None] | Any = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
) -> list[str]:
    """Generate an answer to each prompt, with whatever adapters are attached, or with an adapter of its own each.

    An answer ends before the end token of the base model, before the first of the `stop` strings, or after
    `max_new_tokens` tokens. Prompts are tokenised as in training, which is how `AutoTokenizer` does it. Conversations
    are asked as its chat template writes them, and their answers also end before the token that ends a turn there.
    Where a base model with a chat template is asked texts, a warning says so.

    Args:
        model: The base model.
        prompts: Texts, one text, or a task, whose prompts are taken; also conversations, each a list of messages such
            as {"role": "user", "content": "Who are you?"}.
        max_new_tokens: The most tokens of an answer.
        stop: Texts that end an answer, or one text. They are not part of the answer.
        batch_size: The most prompts that are run together.
        show_progress: Whether a progress bar is shown.
        adapters: Adapters on the base model that share the batch, or an `AdapterPool`. They are attached while the
            answers are generated. Those of one shape are computed together; adapters of different methods can be
            mixed.
        which: For each prompt the index of its adapter in `adapters`, None for the base model alone. By default one
            adapter answers all prompts, and as many adapters as prompts answer one each.
        temperature: 0 for the most likely token each time. Else tokens are drawn from softmax(logits / temperature).
        top_k: Draw from so many of the most likely tokens; None for all.
        top_p: Draw from the most likely tokens that together have this probability.
        seed: What the draws follow from, with the index of the prompt. An answer depends neither on the batch size nor
            on the other prompts, except for rounding. Where there is one seed for each prompt, the index does not
            count.

    Returns:
        One answer per prompt, in the order of the prompts.

    Raises:
        AlignerProbeError: Before anything is computed: the base model has no tokenizer, a prompt is not a text or has a
            token without an embedding, its chat template is missing or refuses a conversation, an option does not fit,
            the context has no room for `max_new_tokens`, or an adapter cannot share a batch.
    """
    tokenizer = _tokenizer(model)
    for index, text in enumerate(stop):
        if fault := fault_of_text(text) or ("" if text else "is empty"):
            raise AlignerProbeError(
                f"stop string {index}, from zero, {fault}; prompts and stop are lists of texts, no stop string empty"
            )
    rows = _rows(model, tokenizer, prompts)
    if note := untemplated_note(tokenizer, prompts):
        warnings.warn(note, AlignerProbeWarning, stacklevel=3)
    end_of_turn = template_of(tokenizer).end if are_chat(prompts) else None
    ends = end_tokens(model) | (set() if end_of_turn is None else {end_of_turn})
    ending = _Ending(tokenizer, ends, stop)
    sampling = sampling_for(len(rows), temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    with each_its_adapter(model, adapters, which, len(rows)):
        answers = generate_ids(
            model,
            rows,
            max_new_tokens=max_new_tokens,
            ending=ending,
            batch_size=batch_size,
            show_progress=show_progress,
            sampling=sampling,
        )
    return [ending.text(new) for new in answers]


def check_prompts(model: TransformerBridge, prompts: Sequence[Prompt], max_new_tokens: int) -> None:
    """Raise AlignerProbeError where `generate` would: a prompt that has no tokens, or too many for the context."""
    _check(model, _rows(model, _tokenizer(model), prompts), max_new_tokens, batch_size=1)


def generate_ids(
    model: TransformerBridge,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    ending: Ending | None = None,
    batch_size: int = 128,
    show_progress: bool = False,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """The new token ids of each prompt of token ids, including the token after which `ending` says that the row is
    finished. They are greedy unless `sampling` says how they are drawn.

    Raises AlignerProbeError as `generate` does.
    """
    _check(model, prompts, max_new_tokens, batch_size)
    completions: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    bar = tqdm(total=len(prompts), desc="prompts", disable=not show_progress)
    with torch.no_grad(), using(threads_for(model)), bar:
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            with selected_rows(model, chosen):
                picker = greedy if sampling is None else sampling.picker(chosen, max_new_tokens)
                new = _batch(model, [prompts[i] for i in chosen], max_new_tokens, ending, picker)
            for index, row in zip(chosen, new, strict=True):
                completions[index] = row
            bar.update(len(chosen))
    return completions


def end_tokens(model: TransformerBridge) -> set[int]:
    """The token ids that end an answer: the tokenizer's end token, and those that the model's generation settings name.

    Settings that do not include the tokenizer's end token are the defaults of another tokenizer, and are ignored.
    """
    settings = getattr(model.original_model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    others = {token for token in (named if isinstance(named, list) else [named]) if token is not None}
    own = getattr(model.tokenizer, "eos_token_id", None)
    return others if own is None or own in others else {own}


def _tokenizer(model: TransformerBridge) -> Any:
    tokenizer = own_tokenizer(model)
    if tokenizer is None:
        raise AlignerProbeError(
            "this base has no tokenizer, so prompts cannot be turned into tokens; load it with one, or give token ids "
            "to generate_ids"
        )
    return tokenizer


def _rows(model: TransformerBridge, tokenizer: Any, prompts: Sequence[Any]) -> list[list[int]]:
    """The token ids of prompts, each of which has an embedding."""
    rows = prompt_ids(tokenizer, prompts)
    d_vocab = embedding_rows(model)
    for index, row in enumerate(rows):
        check_ids(tokenizer, row, d_vocab, f"prompt {index}, from zero")
    return rows


def _check(model: TransformerBridge, prompts: Sequence[Sequence[int]], max_new_tokens: int, batch_size: int) -> None:
    if max_new_tokens < 1 or batch_size < 1:
        raise AlignerProbeError(
            f"max_new_tokens {max_new_tokens} and batch_size {batch_size} generate nothing; expected 1 or more of each"
        )
    for adapter in attached_to(model):
        if adapter.n_rows not in (None, len(prompts)):
            raise AlignerProbeError(
                f"{len(prompts)} prompts, and {adapter.method} was told whose rows they are for {adapter.n_rows}; "
                "expected one row for each prompt"
            )
    room, n_rows = model.cfg.n_ctx - attached_positions(model) - max_new_tokens, embedding_rows(model)
    for index, prompt in enumerate(prompts):
        if not len(prompt):
            raise AlignerProbeError(f"prompt {index}, from zero, has no tokens; expected at least one")
        if not 0 <= min(prompt) <= max(prompt) < n_rows:
            wrong = next(token_id for token_id in prompt if not 0 <= token_id < n_rows)
            raise AlignerProbeError(
                f"prompt {index}, from zero, has the token id {wrong}, but the base's embedding has {n_rows} rows; "
                f"expected ids from 0 to {n_rows - 1}"
            )
        if len(prompt) > room:
            n_long = sum(len(other) > room for other in prompts)
            if room < 1:
                raise AlignerProbeError(
                    f"max_new_tokens {max_new_tokens} leaves no room for a prompt in the context of {model.cfg.n_ctx} "
                    f"tokens; the longest prompt has {max(map(len, prompts))}: lower max_new_tokens"
                )
            raise AlignerProbeError(
                f"prompt {index}, from zero, has {len(prompt)} tokens, and with max_new_tokens {max_new_tokens} at "
                f"most {room} fit into the context of {model.cfg.n_ctx}; {n_long} of {len(prompts)} prompts are too "
                "long: leave such prompts out, or lower max_new_tokens"
            )


def _batch(
    model: TransformerBridge, rows: Sequence[Sequence[int]], max_new_tokens: int, ending: Ending | None, picker: Picker
) -> list[list[int]]:
    """New tokens of rows that run together, padded on the left where their lengths differ."""
    device = next(model.original_model.parameters()).device
    shared, cache = _started(model, rows, device)
    padded, padding = _left_padded(rows, shared)
    inputs, mask = padded.to(device), None if padding is None else padding.to(device)
    new: list[list[int]] = [[] for _ in rows]
    # Rows of `rows` that are still in the batch, and whether they are finished.
    present, finished = list(range(len(rows))), [False] * len(rows)
    for step in range(max_new_tokens):
        with selected_rows(model, present):
            picked = picker(_last_logits(model, inputs, mask, cache), present, step)
        for row, token in zip(present, picked.tolist(), strict=True):
            if not finished[row]:
                new[row].append(token)
                finished[row] = ending is not None and ending(new[row])
        if all(finished) or step == max_new_tokens - 1:
            break
        left = [place for place, row in enumerate(present) if not finished[row]]
        if 2 * len(left) <= len(present):
            # Copying the cache pays once it is halved.
            chosen = torch.tensor(left, device=device)
            cache.batch_select_indices(chosen)
            picked, present = picked[chosen], [present[place] for place in left]
            mask = None if mask is None else mask[chosen]
        inputs = picked.unsqueeze(1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return new


def _last_logits(
    model: TransformerBridge,
    inputs: Int[Tensor, "batch pos"],
    mask: Int[Tensor, "batch all_pos"] | None,
    cache: DynamicCache,
) -> Float[Tensor, "batch d_vocab"]:
    """Logits of the last position; what is new goes into the cache."""
    options: dict[str, Any] = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    if mask is not None:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        options |= {"attention_mask": mask, "position_ids": positions[:, -inputs.shape[1] :]}
    return model(inputs, **options)[:, -1]


def _started(model: TransformerBridge, rows: Sequence[Sequence[int]], device: torch.device) -> tuple[int, DynamicCache]:
    """How many first tokens of all rows are computed already, once for all of them, and the cache that has them."""
    shortest = min(map(len, rows))
    first = torch.tensor([row[:shortest] for row in rows])
    shared = tokens_in_common(model, first, torch.full((len(rows),), shortest), at_most=shortest)
    if not shared:
        return 0, new_cache(model)
    return shared, start_for_all(model, first[0, :shared].to(device), len(rows))


def _left_padded(
    rows: Sequence[Sequence[int]], shared: int
) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, "batch all_pos"] | None]:
    """Ids behind the first `shared` tokens, and the mask with those; no mask where there is nothing to hide."""
    width = max(map(len, rows)) - shared
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.ones(len(rows), shared + width, dtype=torch.int64)
    for place, row in enumerate(rows):
        padding = width + shared - len(row)
        ids[place, padding:] = torch.tensor(row[shared:])
        mask[place, shared : shared + padding] = 0
    return ids, None if bool(mask.all()) else mask


class _Ending:
    """Says that a row is finished: at an end token, or when its text contains a stop string."""

    def __init__(self, tokenizer: Any, end: Collection[int], stop: Sequence[str]):
        self.tokenizer, self.end, self.stop = tokenizer, end, tuple(stop)
        # A stop string can only be completed by a token that has its last character. Decoders add and strip spaces
        # and put bytes together, so this is known of visible ASCII characters and new lines alone.
        last = {text[-1] for text in stop}
        self._last = last if all(c == "\n" or "!" <= c <= "~" for c in last) else None
        self._may_complete: dict[int, bool] = {}

    def __call__(self, new: list[int]) -> bool:
        return new[-1] in self.end or (bool(self.stop) and self._completes(new[-1]) and self._stops(new))

    def text(self, new: list[int]) -> str:
        """The completion, without what ended it."""
        text = decoded(self.tokenizer, new[:-1] if new and new[-1] in self.end else new)
        return text[: min((text.find(stop) for stop in self.stop if stop in text), default=len(text))]

    def _completes(self, token: int) -> bool:
        if self._last is None:
            return True
        if token not in self._may_complete:
            self._may_complete[token] = not self._last.isdisjoint(decoded(self.tokenizer, [token]))
        return self._may_complete[token]

    def _stops(self, new: list[int]) -> bool:
        text = decoded(self.tokenizer, new)
        return any(stop in text for stop in self.stop)
