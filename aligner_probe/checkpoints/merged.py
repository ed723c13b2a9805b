"""Merge an adapter that adds a constant into a plain Hugging Face model.

Such an adapter adds one vector to the attention output of each layer. A bias of the attention output projection does
the same, so the merge is exact. Llama, Gemma, Gemma 2, Gemma 3, Qwen3, SmolLM3 and OLMo 2 have such a bias if
`attention_bias` is set in the configuration; queries, keys and values then have biases too, and those are zero. GPT-2
and GPT-NeoX always have it. Mistral and Qwen2 have no such bias, but without a sliding window they can be written as a
Llama. The result is a plain model: AutoModelForCausalLM loads it, and it is as fast as the base model.
"""

import copy
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from aligner_probe.checkpoints.prefix import dtype_name
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import FAMILIES, family_of
from aligner_probe.files import whole
from aligner_probe.models import load_plain, load_tokenizer, place_of
from aligner_probe.threads import threads_of_size, using
from aligner_probe.versions import versions

PROVENANCE = "merged_from.json"
#: Files of the base model's tokenizer, which are copied into the merged folder.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
BESIDE = (*TOKENIZER_FILES, "generation_config.json")
#: Both the base model's and the merged model's tokenizer must give the same ids for this text.
TEXT = "Once upon a time, 12 + 34 = 46.\n\tNaïve “quotes”, UPPER lower."
#: The largest logit difference, as a share of the largest logit, that rounding alone explains.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class Behaviour:
    """What a model computes for fixed tokens: its logits, and a greedy continuation.

    `text_ids` are the token ids of `TEXT`, and `text_logits` the logits for them; None for a model without a tokenizer.
    """

    logits: Float[Tensor, "batch pos d_vocab"]
    continuation: Int[Tensor, " new_pos"]
    text_ids: list[int] | None = None
    text_logits: Float[Tensor, "text_pos d_vocab"] | None = None


@dataclass(frozen=True)
class MergeReport:
    """The difference between the merged model, loaded from its folder, and the adapter on its hook points.

    `max_logit_difference` is the largest difference for `n_tokens` random tokens, drawn with `seed`, and the
    `n_text_tokens` tokens of a text. `max_logit` is the largest logit among these. Of `greedy_tokens` new tokens, the
    first `same_greedy_tokens` are the same.
    """

    architecture: str
    dtype: str
    n_tokens: int
    seed: int
    max_logit_difference: float
    max_logit: float
    same_greedy_tokens: int
    greedy_tokens: int
    n_text_tokens: int = 0


def target_config(config: Any) -> Any:
    """The configuration of the merged model, from the Hugging Face configuration of its base model.

    Raises AlignerProbeError if no plain model computes exactly what the base model with an output bias computes.
    """
    architecture = (config.architectures or ["a model without a named architecture"])[0]
    merged_as = _merged_as(architecture)
    if getattr(config, "quantization_config", None) is not None:
        raise AlignerProbeError(
            "the base is quantised; name the plain model it was made of (model=, --model), and quantise the merged one"
        )
    merged = copy.deepcopy(config) if merged_as == architecture else _as_llama(config, architecture)
    if hasattr(merged, "attention_bias"):
        merged.attention_bias = True
    merged.architectures = [merged_as]
    return merged


def _merged_as(architecture: str) -> str:
    """The architecture of the merged model, by that of its base; raises AlignerProbeError where there is none."""
    family = FAMILIES.get(architecture)
    if family is not None and family.merged_as is not None:
        return family.merged_as
    if family is not None and family.no_merge:
        raise AlignerProbeError(f"{architecture} cannot take a merge: {family.no_merge}")
    possible = [other.architecture for other in FAMILIES.values() if other.merged_as is not None]
    raise AlignerProbeError(f"{architecture} cannot take a merge; expected one of {', '.join(possible)}")


def _as_llama(config: Any, architecture: str) -> Any:
    from transformers import LlamaConfig

    windowed = [kind for kind in getattr(config, "layer_types", None) or [] if kind != "full_attention"]
    if config.sliding_window is not None or windowed:
        raise AlignerProbeError(
            f"this {architecture} has a sliding window of {config.sliding_window}, which Llama, the only form with an "
            "output bias that it could take, has not; export to steering instead"
        )
    shared = {name: getattr(config, name) for name in LlamaConfig.__annotations__ if hasattr(config, name)}
    ours = {"model_type", "keys_to_ignore_at_inference", "base_model_tp_plan", "base_model_pp_plan"}
    try:
        return LlamaConfig(**{name: value for name, value in shared.items() if name not in ours}, dtype=config.dtype)
    except ValueError as error:
        raise AlignerProbeError(f"this {architecture} has sizes that Llama does not take ({error})") from error


@torch.no_grad()
def merge(base: nn.Module, shifts: dict[int, Float[Tensor, " d_model"]]) -> nn.Module:
    """A new plain model that adds a vector to the attention output of each layer.

    Args:
        base: The plain base model, which must not be inside a bridge. The new model shares its weights.
        shifts: The vectors, by layer index.

    Returns:
        The new model. Its tables for rotary position embedding are empty, so save it and load it before use.

    Raises:
        AlignerProbeError: As `target_config`.
    """
    import transformers

    config = target_config(base.config)
    merged_as = _merged_as(type(base).__name__)
    with torch.device("meta"):
        merged = getattr(transformers, merged_as)(config)
    state = base.state_dict()
    dtype = next(base.parameters()).dtype
    for name, empty in merged.state_dict().items():
        if name not in state:
            # attention_bias gives queries, keys and values a bias as well; only zeros keep the model what it was.
            assert name.endswith("proj.bias"), name
            state[name] = torch.zeros(empty.shape, dtype=dtype)
    for layer, shift in shifts.items():
        name = f"{family_of(merged_as).module(layer, 'o')}.bias"
        state[name] = (state[name].double() + shift.to(state[name].device)).to(dtype)
    merged.load_state_dict(state, strict=True, assign=True)
    merged.tie_weights()
    return merged.eval()


def observe(model: Any, seed: int = 0, text_ids: list[int] | None = None) -> Behaviour:
    """What a Hugging Face model computes for two rows of random tokens and for a text.

    Args:
        model: The model.
        seed: Random tokens are drawn with this seed. The model continues the first row greedily.
        text_ids: The token ids of `TEXT`; they are cut at the context length. None, or ids that the embedding does not
            have, leave the text out.
    """
    context = model.config.max_position_embeddings
    length = max(1, min(24, context // 2))
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (2, length), generator=draw).to(next(model.parameters()).device)
    size = sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), using(threads_of_size(size, tokens.device.type)):
        logits = model(input_ids=tokens, use_cache=False).logits
        done = model.generate(
            tokens[:1],
            attention_mask=torch.ones_like(tokens[:1]),
            max_new_tokens=max(1, min(32, context - length)),
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
        )
        read = None
        if text_ids and max(text_ids) < model.config.vocab_size:
            row = torch.tensor([text_ids[:context]], device=tokens.device)
            read = model(input_ids=row, use_cache=False).logits[0].float().cpu()
    return Behaviour(logits.float().cpu(), done[0, length:].cpu(), text_ids, read)


def compare(hooked: Behaviour, merged: Behaviour, *, architecture: str, dtype: torch.dtype, seed: int) -> MergeReport:
    """The difference between an adapter on its hook points and the merged model.

    Raises AlignerProbeError if it is larger than rounding explains: the merge would be wrong.
    """
    pairs = [(hooked.logits, merged.logits)]
    if hooked.text_logits is not None and merged.text_logits is not None:
        pairs.append((hooked.text_logits, merged.text_logits))
    # max() over a list would lose a difference that is not a number.
    difference = float(torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max())
    largest = float(torch.stack([ours.abs().max() for ours, _ in pairs]).max())
    precision = dtype_name(dtype)
    same = (hooked.continuation == merged.continuation).long().cumprod(0).sum()
    if not difference <= TOLERANCE[dtype] * max(1.0, largest):
        half = dtype in (torch.float16, torch.bfloat16)
        way_on = (
            f"In {precision} the rounding of every layer adds up, so try --dtype float32 (dtype=torch.float32); if it "
            "differs there too, the plain model is not the adapter's base"
            if half
            else "Is the plain model the adapter's base?"
        )
        raise AlignerProbeError(
            f"the merged {architecture} differs from the adapter by {difference:.3g} on logits of up to "
            f"{largest:.3g}, more than the {TOLERANCE[dtype]:g} of them that rounding in {precision} is taken to "
            f"explain; nothing was written. {way_on}"
        )
    return MergeReport(
        architecture=architecture,
        dtype=precision,
        n_tokens=hooked.logits[..., 0].numel(),
        seed=seed,
        max_logit_difference=difference,
        max_logit=largest,
        same_greedy_tokens=int(same),
        greedy_tokens=len(hooked.continuation),
        n_text_tokens=0 if merged.text_logits is None else len(merged.text_logits),
    )


def write(
    folder: str | Path,
    base: str | Path,
    shifts: dict[int, Float[Tensor, " d_model"]],
    hooked: Behaviour,
    *,
    dtype: torch.dtype,
    origin: dict[str, Any],
    seed: int = 0,
) -> MergeReport:
    """Write the merged model, load it again, and compare it with the adapter.

    Args:
        folder: A new folder. It appears only if the comparison succeeds.
        base: The plain base model: a hub id or a folder.
        shifts: The vector that the adapter adds to the attention output, by layer index.
        hooked: What `observe` gives for the adapter on its hook points, with the same seed.
        dtype: Precision of the merged model.
        origin: Where the adapter comes from; it is written into the folder.
        seed: Of the random tokens.

    Raises:
        AlignerProbeError: As `target_config`, `compare` and `load_plain`; token ids of a text differ; or the folder
            exists or cannot be written.
    """
    from safetensors import SafetensorError

    folder, base = Path(folder), place_of(base)
    local = Path(base).is_dir()
    with whole(folder) as new:
        merged: Any = merge(load_plain(base, dtype), shifts)
        _check_room(folder, sum(parameter.nbytes for parameter in merged.parameters()))
        try:
            merged.save_pretrained(new)
        except SafetensorError as error:
            raise AlignerProbeError(f"cannot write to {folder}: {error}; make room, or name another path") from error
        _copy_beside(base, new, local)
        del merged
        text_ids = _check_tokenizer(base, new, hooked.text_ids)
        plain = load_plain(new, dtype).eval()
        behaviour = observe(plain, seed, text_ids)
        report = compare(hooked, behaviour, architecture=type(plain).__name__, dtype=dtype, seed=seed)
        content = origin | {"base": base, "merge": asdict(report), "versions": versions(["torch", "transformers"])}
        (new / PROVENANCE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return report


def _check_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < n_bytes:
        raise AlignerProbeError(
            f"{folder.parent} has {free / 2**30:.1f} GiB free and the merged model needs {n_bytes / 2**30:.1f}; make "
            "room, or name another path"
        )


def _copy_beside(base: str, new: Path, local: bool) -> None:
    from transformers.utils.hub import cached_file

    for name in BESIDE:
        file = cached_file(base, name, local_files_only=local, _raise_exceptions_for_missing_entries=False)
        if file is not None:
            shutil.copyfile(file, new / name)


def _check_tokenizer(base: str, new: Path, hooked: list[int] | None) -> list[int] | None:
    """The token ids of `TEXT` in plain transformers, where `AutoTokenizer` reads the tokenizer from the new folder.

    `hooked` are the ids that the adapter's base model sees; None if it has no tokenizer in memory. Raises
    AlignerProbeError if these differ, or if the tokenizer of `base` gives others. The architecture in config.json can
    select another tokenizer class, and a tokenizer in memory can put a BOS where the one in the folder puts none.
    """
    tokenizer = load_tokenizer(new) if any((new / name).is_file() for name in TOKENIZER_FILES) else None
    if tokenizer is None:
        return None
    ids, base_tokenizer = _without_end(tokenizer), load_tokenizer(base)
    if base_tokenizer is None or ids != _without_end(base_tokenizer):
        raise AlignerProbeError(
            f"the tokenizer of {base} cuts text otherwise beside the merged model's config.json; its "
            "tokenizer_config.json must name a tokenizer_class"
        )
    if hooked is not None and hooked != ids:
        position = next((i for i, (a, b) in enumerate(zip(hooked, ids, strict=False)) if a != b), 0)
        raise AlignerProbeError(
            f"the merged model and the adapter get other token ids for the same text: AutoTokenizer gives "
            f"{ids[position : position + 4]} from position {position} on, and the tokenizer of the adapter's base "
            f"{hooked[position : position + 4]}; nothing was written. Load the base with load_model({base!r}) and "
            "train there"
        )
    return ids


def _without_end(tokenizer: Any) -> list[int]:
    """The ids that a user's `tokenizer(TEXT)` gives, without an end token, which would end the prompt."""
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
