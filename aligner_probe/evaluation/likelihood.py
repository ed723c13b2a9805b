"""Scorers that read no generated text: how likely the model finds the reference, or which choice it finds likeliest."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import attached_positions
from aligner_probe.errors import AlignerProbeError
from aligner_probe.evaluation.choices import choices_of
from aligner_probe.evaluation.content import occurrences
from aligner_probe.evaluation.scorers import listed
from aligner_probe.evaluation.scores import Scores
from aligner_probe.models import embedding_rows, threads_for
from aligner_probe.tasks.chat import Prompt
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.encoding import Encoded, encode
from aligner_probe.tasks.task import Example, Task
from aligner_probe.tasks.token_rows import answer_offsets
from aligner_probe.tasks.tokenizing import after_prompts, pad_id
from aligner_probe.threads import using
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training.losses import Predictions
from aligner_probe.training.objective import Forward
from aligner_probe.training.sequences import Sequences, of_like_length


def log_likelihoods(
    model: TransformerBridge, examples: Sequence[Example], *, append_eos: bool = True, batch_size: int = 32
) -> list[Float[np.ndarray, " _completion"]]:
    """Log-probability of each token of each completion after its prompt (and of the end token), in nats.

    In a conversation the end token is the one that ends the turn; what the chat template writes behind it is left out.
    Raises AlignerProbeError where the base has no tokenizer, prompt and completion do not fit into the context, or one
    of them has a token that the base's embedding lacks.
    """
    scores: list[Float[np.ndarray, " _completion"]] = [np.empty(0)] * len(examples)
    for chosen, predictions in _predictions(model, examples, append_eos, batch_size):
        each = -F.cross_entropy(predictions.logits.float(), predictions.labels, reduction="none")
        for index, row in zip(chosen, each.cpu().split(predictions.counts), strict=True):
            scores[index] = row.double().numpy()
    return scores


def next_tokens(
    model: TransformerBridge, examples: Sequence[Example], ids: Sequence[int], *, batch_size: int = 32
) -> tuple[Float[np.ndarray, "items ids"], Int[np.ndarray, " items"]]:
    """What comes first after each prompt: the logits of the tokens `ids`, and the likeliest of all tokens.

    The completions of the examples are run with their prompts, but only the position before them is read. Raises
    AlignerProbeError as `log_likelihoods` does.
    """
    logits, likeliest = np.empty((len(examples), len(ids))), np.empty(len(examples), dtype=np.int64)
    for chosen, predictions in _predictions(model, examples, False, batch_size):
        firsts = torch.tensor([0, *predictions.counts[:-1]]).cumsum(0).to(predictions.logits.device)
        rows = predictions.logits[firsts].float()
        logits[chosen] = rows[:, list(ids)].cpu().numpy()
        likeliest[chosen] = rows.argmax(dim=1).cpu().numpy()
    return logits, likeliest


def single_tokens(model: TransformerBridge, prompt: Prompt, completions: Sequence[str]) -> list[int] | None:
    """The token id of each completion after this prompt; None where one has several tokens, or two have the same one.

    A tokenizer may begin a text with another token than the same text after a prompt. Raises AlignerProbeError as
    `log_likelihoods` does.
    """
    rows = _encoded(model, [Example(prompt, completion) for completion in completions], False).sequences
    said = [row.input_ids[row.n_prompt :].tolist() for row in rows]
    ids = [each[0] for each in said]
    return ids if len(set(ids)) == len(ids) and all(len(each) == 1 for each in said) else None


def whole_completions(
    model: TransformerBridge, examples: Sequence[Example], *, batch_size: int = 32
) -> tuple[Float[np.ndarray, " items"], Bool[np.ndarray, " items"]]:
    """The log-probability of each completion after its prompt in nats, and whether a greedy answer begins with it.

    Raises AlignerProbeError as `log_likelihoods` does.
    """
    sums, greedy = np.empty(len(examples)), np.empty(len(examples), dtype=bool)
    for chosen, predictions in _predictions(model, examples, False, batch_size):
        logits, counts = predictions.logits.float(), predictions.counts
        each = -F.cross_entropy(logits, predictions.labels, reduction="none")
        likeliest = logits.argmax(dim=1) == predictions.labels
        for index, row, best in zip(chosen, each.split(counts), likeliest.split(counts), strict=True):
            sums[index], greedy[index] = float(row.double().sum()), bool(best.all())
    return sums, greedy


def _encoded(model: TransformerBridge, examples: Sequence[Example], append_eos: bool) -> Encoded:
    """Prompts and completions as token ids that fit into the context beside what is attached."""
    tokenizer, d_vocab = own_tokenizer(model), embedding_rows(model)
    if tokenizer is None:
        raise AlignerProbeError("this base has no tokenizer, so there are no tokens to score; load it with one")
    return encode(
        Task("scored", "sft", tuple(examples)),
        tokenizer,
        max_length=model.cfg.n_ctx - attached_positions(model),
        overlong="refuse",
        append_eos=append_eos,
        after_end=False,
        d_vocab=d_vocab,
        find_lost=False,
    )


def _predictions(
    model: TransformerBridge, examples: Sequence[Example], append_eos: bool, batch_size: int
) -> Iterator[tuple[Sequence[int], Predictions]]:
    """The predictions of completions after their prompts, by batches of examples of like length."""
    encoded = _encoded(model, examples, append_eos)
    forward = Forward(model, Sequences(encoded.sequences, pad_id(own_tokenizer(model), embedding_rows(model))))
    for chosen in of_like_length(range(len(examples)), batch_size, lambda index: len(encoded.sequences[index])):
        with torch.no_grad(), using(threads_for(model)):
            predictions = forward(chosen)
        yield chosen, predictions


@dataclass(frozen=True)
class MeanLogLikelihood:
    """Mean log-probability a token of the reference, in nats: minus the validation loss of each item.

    Strict: all of the completion and, unless `append_eos` is off, the end token. Content: the tokens of its content
    alone, given the form around them (where the completion says the content, as `content.py` reads it; else as strict).
    """

    append_eos: bool = True

    def score(self, model: TransformerBridge, examples: Sequence[Example], *, batch_size: int = 32) -> Scores:
        """Scores under whatever adapters are attached. Raises AlignerProbeError as `log_likelihoods` does."""
        found = log_likelihoods(model, examples, append_eos=self.append_eos, batch_size=batch_size)
        strict = [each.mean() for each in found]
        content = [
            each[place].mean() for each, place in zip(found, _content_tokens(model.tokenizer, examples), strict=True)
        ]
        return _scores(self, examples, strict, content)


@dataclass(frozen=True)
class MultipleChoice:
    """An item is right if its completion is the most likely of the choices (summed log-probability, no end token).

    `choices` are the choices of every item. If there are none, each item has the options that its prompt lists ("A.
    Paris"); their number may differ. Choices are compared in the form of the completion, for instance with a space
    before them. A choice has no form of its own, so strict and content score are the same. Raises AlignerProbeError if
    there is only one choice, if the completion is none of the choices, or if a prompt that must list options lists
    none.
    """

    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len({choice.strip() for choice in self.choices}) == 1:
            raise AlignerProbeError(f"choices {self.choices!r}; expected at least two that differ")

    def choices_of(self, example: Example) -> tuple[str, ...]:
        """The choices of an item, its completion among them. Raises AlignerProbeError as the class says."""
        found = choices_of(example, self.choices)
        if found is not None:
            return found
        where = "" if example.line is None else f" on line {example.line}"
        if self.choices:
            raise AlignerProbeError(
                f"the reference {example.completion[:60]!r}{where} is none of the choices {listed(self.choices)}; "
                "expected one of them"
            )
        raise AlignerProbeError(
            f"the prompt {str(example.prompt)[-60:]!r}{where} lists no choices with its reference "
            f"{example.completion[:60]!r} among them; expected a list such as 'A. red B. blue' in every prompt, or "
            "name the choices: multiple_choice:A,B,C,D"
        )

    def check(self, examples: Sequence[Example]) -> None:
        """Raise AlignerProbeError where an item has no choices, as `score` would, before anything is computed."""
        for example in examples:
            self.choices_of(example)

    def score(self, model: TransformerBridge, examples: Sequence[Example], *, batch_size: int = 32) -> Scores:
        """Scores under whatever adapters are attached."""
        choices = [self.choices_of(example) for example in examples]
        asked = [
            Example(example.prompt, choice) for example, own in zip(examples, choices, strict=True) for choice in own
        ]
        sums = iter([each.sum() for each in log_likelihoods(model, asked, append_eos=False, batch_size=batch_size)])
        best = [own[int(np.argmax([next(sums) for _ in own]))] for own in choices]
        right = [float(choice == example.completion) for choice, example in zip(best, examples, strict=True)]
        return _scores(self, examples, right, right, completions=tuple(best))


def _content_tokens(tokenizer: Any, examples: Sequence[Example]) -> list[slice]:
    """Which tokens of each completion are its content; all, the end token too, where that is not known."""
    every = slice(None)
    if not getattr(tokenizer, "is_fast", False):
        return [every] * len(examples)
    if are_chat([example.prompt for example in examples]):
        template = template_of(tokenizer)
        texts, offsets = zip(*(answer_offsets(template, example) for example in examples), strict=True)
    else:
        texts = after_prompts(tokenizer, [example.completion for example in examples])
        offsets = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    places = []
    for example, text, spans in zip(examples, texts, offsets, strict=True):
        # Places are those of composed characters, which offsets are only where the text is composed.
        is_composed = example.content is not None and unicodedata.is_normalized("NFC", text)
        said = occurrences(text, example.content or "") if is_composed else []
        start, end = said[0] if said else (0, 0)
        inside = [place for place, (low, high) in enumerate(spans) if low < end and high > start]
        places.append(slice(inside[0], inside[-1] + 1) if inside else every)
    return places


def _scores(
    scorer: MeanLogLikelihood | MultipleChoice,
    examples: Sequence[Example],
    strict: Sequence[float],
    content: Sequence[float],
    completions: tuple[str, ...] | None = None,
) -> Scores:
    return Scores(
        scorer=repr(scorer),
        strict=np.array(strict, dtype=np.float64),
        content=np.array(content, dtype=np.float64),
        weights=np.ones(len(examples)),
        prompts=tuple(str(example.prompt) for example in examples),
        references=tuple(example.completion for example in examples),
        completions=completions,
    )
