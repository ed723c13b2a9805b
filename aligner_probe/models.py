"""Base models: a hub id, a local folder or a model object becomes a frozen `TransformerBridge` on raw weights.

Raw, because a prefix token passes through no norm: with norms folded into the projections, as TransformerLens can do,
one and the same token would mean something else in every layer.
"""

import gc
import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.arguments import accepts, refuse
from aligner_probe.artifacts import MICROWORLD, microworld_folder
from aligner_probe.bridges import KnownFingerprint, StoredFingerprint, state_of
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import family_of
from aligner_probe.model_names import check_model_name
from aligner_probe.overlay import overlay
from aligner_probe.quantised import (
    precision,
    refuse_quantised_config,
    refuse_quantised_model,
    refuse_quantised_tensors,
)
from aligner_probe.threads import Threads, threads_of_size
from aligner_probe.tokenizers import attach_tokenizer, own_tokenizer

#: Numbers of each tensor that enter the fingerprint: enough to tell models apart, quick on seven billion.
FINGERPRINT_NUMBERS = 4096
#: From here on, of a million numbers, whole rows are stepped over.
LONG_STEP = 256
#: A folder that holds any of these has a tokenizer; of which kind, transformers finds out. (Asked without looking, it
#: makes an empty GPT-2 tokenizer of no file at all.)
TOKENIZERS = ("tokenizer*", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


def _given(value: Any, where: str) -> str | Path | nn.Module:
    if isinstance(value, str | Path | nn.Module):
        return value
    raise refuse(value, where, '"microworld", a Hugging Face hub id, a folder, or a model that is loaded already')


@accepts(name_or_path=_given)
def load_model(
    name_or_path: str | Path | nn.Module,
    *,
    dtype: torch.dtype | str = torch.float32,
    device: str | torch.device | None = None,
    fast: bool = True,
) -> TransformerBridge:
    """Load a causal language model as a frozen TransformerLens `TransformerBridge` on its original weights.

    The tokenizer is the one that `AutoTokenizer` gives. If TransformerLens made a copy of it that puts a BOS token
    before every text, the tokenizer itself is put back, with a warning.

    Args:
        name_or_path: "microworld" (the small base model that comes with the project), a Hugging Face hub id, a local
            folder, a Hugging Face model (wrapped in place, on its own device unless `device` is given), or a bridge.
        dtype: The precision in which weights are read.
        device: For instance "cuda"; by default the CPU.
        fast: Compute attention and norms with Hugging Face's kernels if the family has fast components. False leaves
            everything to TransformerLens. A bridge stays as it is.

    Returns:
        The bridge. Its parameters are frozen.

    Raises:
        AlignerProbeError: The device does not exist; the model cannot be found, is damaged, lacks weights, is quantised
            or of an unsupported architecture; or a bridge's weights were processed. If possible, before any weight is
            read.
    """
    dtype = precision(dtype)
    if device is not None:
        _check_device(device)
    if isinstance(name_or_path, TransformerBridge):
        own_tokenizer(check_raw(name_or_path))
        return freeze(name_or_path)
    if isinstance(name_or_path, nn.Module):
        model, tokenizer, name = name_or_path, None, type(name_or_path).__name__
        architecture = type(model).__name__
        family_of(architecture)
        refuse_quantised_model(model)
        as_stored = None
    else:
        name = str(name_or_path)
        config = read_config(name)
        architecture = (config.architectures or ["none named in config.json"])[0]
        family_of(architecture)
        refuse_quantised_config(config, place_of(name))
        as_stored = _fingerprint_as_stored(name, config, dtype)
        model, tokenizer = load_plain(name, dtype), load_tokenizer(name)
    if device is not None:
        model = model.to(device)
    bridge = _bridge(model.eval(), architecture, tokenizer, name, fast)
    if as_stored is not None:
        state_of(bridge).as_stored = StoredFingerprint(_digest(_weights(bridge)), as_stored)
    return bridge


def _check_device(device: str | torch.device) -> None:
    try:
        torch.empty(0, device=device)
    except Exception as error:  # RuntimeError, AssertionError, ImportError, ..., by the kind of device
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise AlignerProbeError(
            f"device {str(device)!r} cannot be used on this machine by torch {torch.__version__}; expected one of "
            f"{', '.join(there)}"
        ) from error


def place_of(name: str | Path) -> str:
    """What transformers knows a base by: the folder of "microworld", any other name itself."""
    return str(microworld_folder()) if str(name) == MICROWORLD else str(name)


def said_by(error: Exception) -> str:
    """What an error of another library says, in part of a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def read_config(name: str | Path) -> Any:
    """A model's config.json. Raises AlignerProbeError where there is none that transformers takes."""
    from transformers import AutoConfig

    place = place_of(name)
    check_model_name(place)
    try:
        return AutoConfig.from_pretrained(place, local_files_only=Path(place).is_dir())
    except Exception as error:  # OSError, ValueError, errors of huggingface_hub's own for a value of the wrong type
        raise _not_a_model(place, error) from error


def stored_dtype(config: Any) -> torch.dtype:
    """The precision that a model's weights are stored in, by its config.json; float32 where that does not tell."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def load_plain(name: str | Path, dtype: torch.dtype) -> nn.Module:
    """A Hugging Face model of which every number was read from its weights.

    Raises AlignerProbeError where it cannot be read, or where weights are missing or of other sizes than config.json
    says: transformers would go on with random ones.
    """
    from transformers import AutoModelForCausalLM

    place = place_of(name)
    with _report_held_back():
        try:
            # A pair, since `output_loading_info` is set.
            pair: Any = AutoModelForCausalLM.from_pretrained(
                place,
                dtype=dtype,
                local_files_only=Path(place).is_dir(),
                ignore_mismatched_sizes=True,  # told below, by name
                output_loading_info=True,
            )
        except Exception as error:  # OSError, ValueError, SafetensorError, RuntimeError, UnpicklingError, ...
            raise _not_a_model(place, error) from error
        model, found = pair
        # Tied weights are not among the missing ones, and left-over buffers are only unexpected.
        wrong = [f"{key} {tuple(there)}, {tuple(here)} by config.json" for key, there, here in found["mismatched_keys"]]
        if wrong:
            raise AlignerProbeError(
                f"{place} has weights of other sizes than its config.json says: {_few(wrong)}; expected both of one "
                "model: copy or download it again"
            )
        if found["missing_keys"]:
            refuse_quantised_tensors(found["unexpected_keys"], place)
            raise AlignerProbeError(
                f"{place} has no numbers for {_few(found['missing_keys'])}, and random ones would be no base; expected "
                f"all weights of a {type(model).__name__}: copy or download them again"
            )
        refuse_quantised_tensors(found["unexpected_keys"], place)
    return model


def _few(names: list[str] | set[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(sorted(names)[:3]) + more


@contextmanager
def _report_held_back() -> Iterator[None]:
    """transformers' table of what it found is logged only where nothing is raised, which says it in a line."""
    held: list[logging.LogRecord] = []

    def hold(record: logging.LogRecord) -> bool:
        held.append(record)
        return False

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(hold)
    try:
        yield
    finally:
        logger.removeFilter(hold)
    for record in held:
        logger.handle(record)


def _not_a_model(place: str, error: Exception) -> AlignerProbeError:
    return AlignerProbeError(
        f"cannot load a model from {place!r} ({said_by(error)}); expected a Hugging Face hub id, or a local folder "
        "with config.json and weights, neither of them cut short"
    )


def load_tokenizer(name: str | Path) -> Any:
    """The tokenizer beside a model, or None where a local folder has none.

    Raises AlignerProbeError where there is one that transformers cannot read.
    """
    from transformers import AutoTokenizer

    place = place_of(name)
    local = Path(place).is_dir()
    if local and not any(found for pattern in TOKENIZERS for found in Path(place).glob(pattern)):
        return None
    try:
        return AutoTokenizer.from_pretrained(place, local_files_only=local)
    except Exception as error:  # the tokenizers library raises bare Exceptions; KeyError, ValueError, ...
        raise AlignerProbeError(
            f"cannot read the tokenizer of {place!r} ({said_by(error)}); copy or download its files again"
            + ", or take them away to go without one" * local
        ) from error


def _fingerprint_as_stored(name: str, config: Any, dtype: torch.dtype) -> str | None:
    """The fingerprint of a base that is to be read in float16, from its numbers in their own precision.

    A number rounded to float16 and from there to bfloat16 is not the number rounded to bfloat16 at once. None where
    the base in `dtype` has its fingerprint still.
    """
    stored = stored_dtype(config)
    if dtype != torch.float16 or stored == torch.float16:
        return None
    found = fingerprint(load_model(name, dtype=stored))
    gc.collect()  # a bridge holds itself, and another copy of the base is about to be read
    return found


def _bridge(model: nn.Module, architecture: str, tokenizer: object, name: str, fast: bool) -> TransformerBridge:
    # The public loader wants a tokenizer from a hub and forces eager attention on the Hugging Face side.
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    first = next(model.parameters())
    bridge = build_bridge_from_module(
        model,
        architecture,
        hf_config=model.config,
        tokenizer=None,  # it would be rebuilt, with a BOS before every text
        dtype=first.dtype,
        device=first.device,
        model_name=name,
        post_adapter_hook=partial(overlay, components=family_of(architecture).fast_components) if fast else None,
    )
    return freeze(attach_tokenizer(bridge, tokenizer))


def freeze(model: TransformerBridge) -> TransformerBridge:
    """No base number takes a gradient. After the bridge is built, which splits GPT-2's and NeoX's fused projections
    into new, trainable ones."""
    return model.requires_grad_(False).eval()


def check_raw(model: TransformerBridge) -> TransformerBridge:
    """Raises AlignerProbeError for a bridge with processed weights or of an unknown family; else the bridge."""
    family_of(architecture_of(model))
    if getattr(model, "_weights_processed", False):
        raise AlignerProbeError(
            "this bridge's weights were processed (norms folded into the projections), so a shared prefix token would "
            "mean something else in each layer; load it raw: load_model(name), or "
            "enable_compatibility_mode(no_processing=True)"
        )
    return model


def architecture_of(model: TransformerBridge) -> str:
    """Hugging Face class name of the model inside a bridge."""
    return type(model.original_model).__name__


def config_of_base(model: TransformerBridge) -> Any:
    """Hugging Face configuration of the model inside a bridge."""
    return model.original_model.config


def device_of(model: TransformerBridge) -> torch.device:
    """Where the base's numbers are."""
    return next(model.original_model.parameters()).device


def dtype_of(model: TransformerBridge) -> torch.dtype:
    """Precision of the base's numbers, and so of the residual stream."""
    return next(model.original_model.parameters()).dtype


def base_parameters(model: TransformerBridge) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every number of the base that its forward pass uses, as (module, name, parameter); tied ones more than once.

    Fused projections are left out: the bridge splits them into new ones and computes with those.
    """
    unused = family_of(architecture_of(model)).unused_modules
    for path, module in model.original_model.named_modules():
        if any(part in path for part in unused):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, parameter


def embedding_rows(model: TransformerBridge) -> int:
    """Number of rows of the base's embedding: its token ids are those from 0 to one below."""
    return model.W_E.shape[0]


def n_base_parameters(model: TransformerBridge) -> int:
    """Numbers of the base, tied ones once."""
    return sum({id(parameter): parameter.numel() for _, _, parameter in base_parameters(model)}.values())


def threads_for(model: TransformerBridge) -> Threads:
    """The number of CPU threads for work with this base, and why: the rule of `aligner_probe.threads` by its size."""
    return threads_of_size(n_base_parameters(model), device_of(model).type)


def fingerprint(model: TransformerBridge) -> str:
    """SHA-256 over evenly drawn numbers of every weight, rounded to bfloat16: one for a base in any precision.

    A base that `load_model` read in float16 keeps the one of its numbers as stored, as long as they are the ones it
    read; a model handed over in float16 has one of its own. It is computed once for a bridge, and again after a weight
    was replaced or written into.
    """
    weights, state = _weights(model), state_of(model)
    now = [(name, tensor.data_ptr(), tensor._version) for name, tensor in weights]
    if state.fingerprint is not None and state.fingerprint.weights == now:
        return state.fingerprint.value
    found = _digest(weights)
    if state.as_stored is not None and state.as_stored.in_float16 == found:
        found = state.as_stored.value
    state.fingerprint = KnownFingerprint(now, found)
    return found


def _weights(model: TransformerBridge) -> list[tuple[str, Tensor]]:
    return sorted(model.original_model.state_dict().items())


def _digest(weights: list[tuple[str, Tensor]]) -> str:
    digest = hashlib.sha256()
    for name, tensor in weights:
        drawn = tensor.reshape(-1)[:: _step(tensor)].to(torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(drawn.contiguous().view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def _step(tensor: Tensor) -> int:
    """From one drawn number to the next: in a large matrix one that sees all columns, so none that divides its rows."""
    step, row = max(1, tensor.numel() // FINGERPRINT_NUMBERS), tensor.shape[-1] if tensor.ndim > 1 else 1
    while step >= LONG_STEP and math.gcd(step, row) > 1:
        step += 1
    return step
