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
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from aligner_probe.checkpoints.checking import TEXT, CheckReport, Expected, check, observe
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import FAMILIES, family_of
from aligner_probe.files import whole
from aligner_probe.models import load_plain, load_tokenizer, place_of
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


def write(
    folder: str | Path,
    base: str | Path,
    shifts: dict[int, Float[Tensor, " d_model"]],
    expected: Expected | None,
    text_ids: list[int] | None,
    *,
    dtype: torch.dtype,
    origin: dict[str, Any],
) -> tuple[str, CheckReport | None]:
    """Write the merged model, load it again, and check it against the adapter.

    Args:
        folder: A new folder. It appears only if the checks succeed.
        base: The plain base model: a hub id or a folder.
        shifts: The vector that the adapter adds to the attention output, by layer index.
        expected: What the adapter does on its hook points; None leaves the checks out.
        text_ids: The token ids of `checking.TEXT` that the adapter's base model sees; None if it has no tokenizer.
        dtype: Precision of the merged model.
        origin: Where the adapter comes from; it is written into the folder.

    Returns:
        The architecture of the merged model, and the report of the checks.

    Raises:
        AlignerProbeError: As `target_config`, `checking.check` and `load_plain`; token ids of a text differ; or the
            folder exists or cannot be written.
    """
    from safetensors import SafetensorError

    folder, base = Path(folder), place_of(base)
    local = Path(base).is_dir()
    with whole(folder) as new:
        plain: Any = load_plain(base, dtype).eval()
        before = None if expected is None else observe(plain, text_ids, greedy=False)
        merged: Any = merge(plain, shifts)
        del plain
        _check_room(folder, sum(parameter.nbytes for parameter in merged.parameters()))
        try:
            merged.save_pretrained(new)
        except SafetensorError as error:
            raise AlignerProbeError(f"cannot write to {folder}: {error}; make room, or name another path") from error
        _copy_beside(base, new, local)
        architecture = type(merged).__name__
        del merged
        _check_tokenizer(base, new, text_ids)
        report = None
        if expected is not None and before is not None:
            there = observe(load_plain(new, dtype).eval(), text_ids)
            report = check(expected, before, there, consumer="transformers", architecture=architecture, dtype=dtype)
        content = origin | {
            "base": base,
            "merge": None if report is None else asdict(report),
            "versions": versions(["torch", "transformers"]),
        }
        (new / PROVENANCE).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return architecture, report


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


def _check_tokenizer(base: str, new: Path, hooked: list[int] | None) -> None:
    """Compare the token ids of `TEXT` in plain transformers, where `AutoTokenizer` reads the new folder's tokenizer.

    `hooked` are the ids that the adapter's base model sees; None if it has no tokenizer in memory. Raises
    AlignerProbeError if these differ, or if the tokenizer of `base` gives others. The architecture in config.json can
    select another tokenizer class, and a tokenizer in memory can put a BOS where the one in the folder puts none.
    """
    tokenizer = load_tokenizer(new) if any((new / name).is_file() for name in TOKENIZER_FILES) else None
    if tokenizer is None:
        return
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


def _without_end(tokenizer: Any) -> list[int]:
    """The ids that a user's `tokenizer(TEXT)` gives, without an end token, which would end the prompt."""
    ids: list[int] = tokenizer(TEXT)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
