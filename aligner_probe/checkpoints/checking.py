"""Check an export in its consumer: the tool that reads the written files, beside the adapter on its hook points.

The commonest fault of an exported adapter is that another tool loads it and then answers as the base model. So three
checks are made, on the largest difference of two models' logits for the same probe tokens:

| check | what must hold in the consumer |
|---|---|
| applied | the logits differ from the base model's there by more than rounding |
| right | the logits are nearer to this adapter's own than to the base model's, and than to any other adapter's |
| equal | the logits differ from this adapter's own by no more than rounding in this precision explains |

An adapter that changes nothing (an untrained one) can be checked for "equal" only, and the report says so.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from aligner_probe.adapters import Adapter
from aligner_probe.checkpoints.prefix import dtype_name
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import architecture_of, dtype_of
from aligner_probe.tasks.tokenizing import prompt_ids
from aligner_probe.threads import threads_of_size, using

#: The random probe tokens, and the values of the control adapter, are drawn with this seed.
SEED = 0
#: A probe text. The tokenizers of a base model and of a model that is written must give the same ids for it.
TEXT = "Once upon a time, 12 + 34 = 46.\n\tNaïve “quotes”, UPPER lower."
#: The largest logit difference, as a share of the largest logit, that rounding alone explains.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
#: Precisions of 16 bits, in which the rounding of every layer adds up.
HALF = (torch.float16, torch.bfloat16)
#: What messages call the adapter that differs from the exported one in the order of its values alone.
CONTROL = "the same adapter with its values shuffled"
BASE = "the base model"


@dataclass(frozen=True)
class Behaviour:
    """What a model computes for the probe tokens: its logits, and a greedy continuation where one was asked for.

    `text_ids` are the token ids of `TEXT`, and `text_logits` the logits for them; None for a model without a tokenizer.
    """

    logits: Float[Tensor, "batch pos d_vocab"]
    continuation: Int[Tensor, " new_pos"] | None = None
    text_ids: list[int] | None = None
    text_logits: Float[Tensor, "text_pos d_vocab"] | None = None


@dataclass(frozen=True)
class Expected:
    """What an adapter must do in every consumer, as computed here.

    `own` is the model with the adapter on its hook points and `base` the model without it. `others` are the same model
    with other adapters, by the name that messages give them. `architecture` and `dtype` are those of that model.
    """

    own: Behaviour
    base: Behaviour
    others: Mapping[str, Behaviour]
    architecture: str
    dtype: torch.dtype


@dataclass(frozen=True)
class CheckReport:
    """The three checks of an export in its consumer. Differences are the largest ones of two models' logits.

    Args:
        consumer: The tool that read the written files.
        architecture: Class name of the model in it.
        dtype: Precision of the model.
        n_tokens: Number of random probe tokens, drawn with `seed`.
        seed: Their seed.
        base_difference: Check "applied": the difference from the base model in the consumer.
        nearest_difference: Check "right": the difference from the nearest other adapter.
        nearest: The name of that adapter.
        max_logit_difference: Check "equal": the difference from the adapter on its hook points.
        rounding: Smaller differences are rounding: those of the base model here and there, or of one logit's precision.
        tolerance: The largest difference that check "equal" allows.
        max_logit: The largest logit.
        effect: The difference that the adapter makes here. Where it is not above `rounding`, "applied" and "right" are
            not decided.
        same_greedy_tokens: How many of the first greedy tokens are the same.
        greedy_tokens: The number of greedy tokens.
        n_text_tokens: Number of probe tokens of a text; 0 for a model without a tokenizer.
    """

    consumer: str
    architecture: str
    dtype: str
    n_tokens: int
    seed: int
    base_difference: float
    nearest_difference: float
    nearest: str
    max_logit_difference: float
    rounding: float
    tolerance: float
    max_logit: float
    effect: float
    same_greedy_tokens: int
    greedy_tokens: int
    n_text_tokens: int = 0

    @property
    def is_decided(self) -> bool:
        """Whether the adapter does enough for the checks "applied" and "right"."""
        return self.effect > self.rounding

    def notes(self) -> tuple[str, ...]:
        """The report in sentences: one on how it was checked, and one for each check."""
        text = f", and {self.n_text_tokens} tokens of a text" if self.n_text_tokens else ""
        how = f"{self.n_tokens} random tokens, seed {self.seed}{text}, logits up to {self.max_logit:.3g}"
        equal = (
            f"equal: logits differ from the adapter's by {self.max_logit_difference:.3g}, of at most "
            f"{self.tolerance:.3g}; the first {self.same_greedy_tokens} of {self.greedy_tokens} greedy tokens are the "
            "same"
        )
        checked = f"checked in {self.consumer} as {self.architecture} in {self.dtype} ({how})"
        if not self.is_decided:
            return (
                checked,
                f"applied, right: not decided, because the adapter changes the logits by {self.effect:.3g} and "
                f"{self.rounding:.3g} is rounding in {self.dtype} (is it trained?)",
                equal,
            )
        return (
            checked,
            f"applied: logits differ from the base's by {self.base_difference:.3g}, where {self.rounding:.3g} is "
            "rounding",
            f"right: logits differ from the nearest other adapter's ({self.nearest}) by {self.nearest_difference:.3g}",
            equal,
        )


def observe(model: Any, text_ids: list[int] | None = None, *, greedy: bool = True) -> Behaviour:
    """What a Hugging Face model computes for two rows of random tokens and for a text.

    Args:
        model: The model.
        text_ids: The token ids of `TEXT`; they are cut at the context length. None, or ids that the embedding does not
            have, leave the text out.
        greedy: Whether the model continues the first row greedily.
    """
    context = model.config.max_position_embeddings
    length = max(1, min(24, context // 2))
    draw = torch.Generator().manual_seed(SEED)
    tokens = torch.randint(model.config.vocab_size, (2, length), generator=draw).to(next(model.parameters()).device)
    size = sum(parameter.numel() for parameter in model.parameters())
    continuation = read = None
    with torch.no_grad(), using(threads_of_size(size, tokens.device.type)):
        logits = model(input_ids=tokens, use_cache=False).logits
        if greedy:
            done = model.generate(
                input_ids=tokens[:1],
                attention_mask=torch.ones_like(tokens[:1]),
                max_new_tokens=max(1, min(32, context - length)),
                do_sample=False,
                eos_token_id=-1,
                pad_token_id=0,
            )
            continuation = done[0, length:].cpu()
        if text_ids and max(text_ids) < model.config.vocab_size:
            row = torch.tensor([text_ids[:context]], device=tokens.device)
            read = model(input_ids=row, use_cache=False).logits[0].float().cpu()
    return Behaviour(logits.float().cpu(), continuation, text_ids, read)


def text_ids(tokenizer: Any) -> list[int] | None:
    """The token ids of `TEXT` that this project gives a prompt; None where a base model has no tokenizer.

    A tokenizer in memory stays as it was when the adapter was trained.
    """
    return None if tokenizer is None else prompt_ids(tokenizer, [TEXT])[0]


def expect(adapter: Adapter, others: Mapping[str, Adapter]) -> Expected:
    """What an adapter does to its base model, and what others do: `others`, and the same one with shuffled values.

    Raises AlignerProbeError where an adapter is attached already.
    """
    model, ids = adapter.model.original_model, text_ids(adapter.model.tokenizer)
    base = observe(model, ids, greedy=False)
    with adapter.attached():
        own = observe(model, ids)
    behaviours = {}
    for name, other in {CONTROL: shuffled(adapter), **others}.items():
        with other.attached():
            behaviours[name] = observe(other.model.original_model, ids, greedy=False)
    return Expected(own, base, behaviours, architecture_of(adapter.model), dtype_of(adapter.model))


def shuffled(adapter: Adapter) -> Adapter:
    """A copy of an adapter, on the same base model, in which the values of each parameter stand in another order."""
    control = copy.deepcopy(adapter, {id(adapter.model): adapter.model})
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in control.parameters():
            order = torch.randperm(parameter.numel(), generator=draw).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return control


def difference(one: Behaviour, other: Behaviour) -> float:
    """The largest difference of two models' logits, on all probe tokens that both have read; NaN where one has NaN."""
    pairs = [(one.logits, other.logits)]
    if one.text_logits is not None and other.text_logits is not None:
        pairs.append((one.text_logits, other.text_logits))
    # max() over a list would lose a difference that is not a number.
    return float(torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max())


def check(
    expected: Expected,
    base: Behaviour,
    there: Behaviour,
    *,
    consumer: str,
    architecture: str | None = None,
    dtype: torch.dtype | None = None,
) -> CheckReport:
    """Compare a consumer's model with the adapter on its hook points, with the base model and with other adapters.

    Args:
        expected: What was computed here.
        base: The base model in the consumer.
        there: The model with the written files in the consumer.
        consumer: The tool, for messages.
        architecture: Class name of the model in the consumer; None where it is that of the base.
        dtype: Precision of the model in the consumer; None where it is that of the base here.

    Returns:
        The three differences, and what they were held against.

    Raises:
        AlignerProbeError: One of the three checks fails, which the message names; or the base model in the consumer is
            another one than here.
    """
    own, architecture, dtype = expected.own, architecture or expected.architecture, dtype or expected.dtype
    largest = max(float(part.abs().max()) for part in (own.logits, own.text_logits) if part is not None)
    scale = max(1.0, largest)
    tolerance = TOLERANCE[dtype] * scale
    bases = difference(expected.base, base)
    precision, nothing = dtype_name(dtype), "nothing was written"
    explained = f"more than the {TOLERANCE[dtype]:g} of them that rounding in {precision} is taken to explain"
    if not bases <= tolerance:
        raise AlignerProbeError(
            f"the plain {architecture} differs from the adapter's base, both without the adapter, by {bases:.3g} on "
            f"logits of up to {largest:.3g}, {explained}; {nothing}. {_way_on(dtype, same_base=False)}"
        )
    # What the base computes here and there is the same function, so its difference is a measured rounding.
    rounding = max(torch.finfo(dtype).eps * scale, bases)
    distances = {name: difference(there, other) for name, other in expected.others.items()}
    nearest = min(distances, key=lambda name: distances[name])
    report = CheckReport(
        consumer=consumer,
        architecture=architecture,
        dtype=precision,
        n_tokens=own.logits[..., 0].numel(),
        seed=SEED,
        base_difference=difference(there, base),
        nearest_difference=distances[nearest],
        nearest=nearest,
        max_logit_difference=difference(there, own),
        rounding=rounding,
        tolerance=tolerance,
        max_logit=largest,
        effect=difference(own, expected.base),
        same_greedy_tokens=_same_greedy(own, there),
        greedy_tokens=0 if own.continuation is None else len(own.continuation),
        n_text_tokens=0 if own.text_logits is None or there.text_logits is None else len(there.text_logits),
    )
    error = report.max_logit_difference
    if report.is_decided and not report.base_difference > rounding:
        raise AlignerProbeError(
            f"check 'applied' failed: in {consumer} the logits differ from the base's by "
            f"{report.base_difference:.3g}, where the adapter changes them by {report.effect:.3g}; {nothing}. This "
            f"{consumer} does not apply what was written: try another version of it, or another export"
        )
    distances[BASE] = difference(there, expected.base)
    rival = min(distances, key=lambda name: distances[name])
    if report.is_decided and not distances[rival] > max(rounding, error):
        raise AlignerProbeError(
            f"check 'right' failed: in {consumer} the logits differ from those of {rival} by {distances[rival]:.3g} "
            f"and from this adapter's by {error:.3g}; {nothing}. Expected this adapter's to be nearer by more than "
            f"{rounding:.3g}, which is rounding in {precision}: is that the same adapter, or the wrong one?"
            + (" --dtype float32 (dtype=torch.float32) tells them apart better" if dtype in HALF else "")
        )
    if not error <= tolerance:
        raise AlignerProbeError(
            f"check 'equal' failed: the {architecture} in {consumer} differs from the adapter by {error:.3g} on logits "
            f"of up to {largest:.3g}, {explained}; {nothing}. {_way_on(dtype, same_base=True)}"
        )
    return report


def _same_greedy(own: Behaviour, there: Behaviour) -> int:
    """How many tokens of the two greedy continuations are the same from the first on."""
    if own.continuation is None or there.continuation is None:
        return 0
    return int((own.continuation == there.continuation).long().cumprod(0).sum())


def _way_on(dtype: torch.dtype, *, same_base: bool) -> str:
    """The end of a message about a difference that is larger than rounding."""
    otherwise = "the export is wrong, so report it" if same_base else "the plain model is not the adapter's base"
    if dtype in HALF:
        return (
            f"In {dtype_name(dtype)} the rounding of every layer adds up, so try --dtype float32 (dtype=torch.float32);"
            f" if it differs there too, {otherwise}"
        )
    return "Is the plain model the adapter's base?" if not same_base else f"Expected the same logits: {otherwise}"
