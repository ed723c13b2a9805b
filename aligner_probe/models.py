"""Load base models: a hub id, a local folder or a model object becomes a frozen `TransformerBridge` on raw weights.

Raw weights are those of the Hugging Face model. TransformerLens can also fold the weights of each norm into the next
projection. That is not done here: a prefix token passes through no norm, so with folded norms the same token would have
another effect in every layer.
"""

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.arguments import accepts, refuse
from aligner_probe.artifacts import MICROWORLD, microworld_folder
from aligner_probe.bridges import StoredFingerprint, state_of
from aligner_probe.devices import check_one_device
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import family_of
from aligner_probe.fingerprints import digest, fingerprint
from aligner_probe.model_names import check_model_name
from aligner_probe.overlay import overlay
from aligner_probe.packed import compute_as_trained, numel_of, packing_of
from aligner_probe.quantised import (
    check_model,
    check_quantization,
    precision,
    quantization_to_use,
    reading_options,
    refuse_quantised_tensors,
    stored_quantization,
)
from aligner_probe.threads import SMALL, Threads, threads_of_size
from aligner_probe.tokenizers import attach_tokenizer, own_tokenizer

#: A folder with a file of one of these names has a tokenizer. transformers finds out of which class. (In a folder
#: without such a file, transformers would make an empty GPT-2 tokenizer.)
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
    quantization: str | None = None,
) -> TransformerBridge:
    """Load a causal language model as a frozen base model.

    Args:
        name_or_path: "microworld" (the base model that comes with the package), a Hugging Face hub id, a local folder,
            a Hugging Face model object, or a `TransformerBridge`. A folder is read without network access. A model
            object is wrapped in place and keeps its precision. A bridge is used as it is.
        dtype: Precision in which the weights of a hub id or folder are read.
        device: Where the model goes. None is the CPU, or the device on which a model object already is.
        fast: Compute attention and norms with Hugging Face's kernels where the family has fast components (see
            `aligner_probe.overlay`). False leaves everything to TransformerLens.
        quantization: "nf4" (four bits, bitsandbytes) or "int8" (eight bits, torchao) to quantise the projections of a
            hub id or folder while it is read. None reads it as it is stored, plain or in one of these two ways. For a
            quantised model, `dtype` is the precision of all other weights and of the computation.

    Returns:
        The model as a TransformerLens bridge. No parameter takes a gradient. Its tokenizer is the one that
        `AutoTokenizer` gives, or None where a folder has none. Where a given bridge has a copy of it that puts a BOS
        before every text, the tokenizer itself is put back, with a warning.

    Raises:
        AlignerProbeError: The device does not exist, the micro-world is damaged or missing, the weights of a bridge
            were processed, the architecture is outside `families.FAMILIES`, the model is quantised in another way or
            cannot be quantised, the package for that is missing, its parameters are on several devices, or the model
            cannot be found, is damaged or lacks weights. Where possible, this is raised before any weight is read.
    """
    dtype = precision(dtype)
    if device is not None:
        _check_device(device)
    if isinstance(name_or_path, nn.Module):
        check_one_device(name_or_path)
    if isinstance(name_or_path, TransformerBridge):
        check_quantization(quantization, name_or_path.original_model)
        own_tokenizer(check_raw(name_or_path))
        compute_as_trained(name_or_path.original_model)
        return freeze(name_or_path)
    if isinstance(name_or_path, nn.Module):
        family_of(type(name_or_path).__name__)
        check_model(name_or_path, quantization)
        model = name_or_path if device is None else name_or_path.to(device)
        compute_as_trained(model)
        return _bridge(model.eval(), type(model).__name__, None, type(model).__name__, fast)
    name = str(name_or_path)
    config = read_config(name)
    architecture = (config.architectures or ["none named in config.json"])[0]
    family_of(architecture)
    stored = stored_quantization(config, place_of(name))
    used = quantization_to_use(quantization, stored, config, place_of(name), dtype, device)
    plain = None if stored else _fingerprint_as_stored(name, config, dtype, used)
    reading = reading_options(used, is_stored=stored is not None, dtype=dtype, device=device)
    model, tokenizer = load_plain(name, dtype, reading), load_tokenizer(name)
    compute_as_trained(model, dtype)
    if device is not None and used is None:
        model = model.to(device)
    bridge = _bridge(model.eval(), architecture, tokenizer, name, fast)
    if plain is not None:
        known = StoredFingerprint(digest(bridge), plain)
        state_of(bridge).as_stored, state_of(bridge).source = (None, known) if used else (known, None)
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
    """The name by which transformers finds a base model: the folder of "microworld"; any other name as it is."""
    return str(microworld_folder()) if str(name) == MICROWORLD else str(name)


def said_by(error: Exception) -> str:
    """The message of another library's error, with its class, shortened to a part of one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def read_config(name: str | Path) -> Any:
    """A model's config.json. Raises AlignerProbeError where there is none that transformers can read."""
    from transformers import AutoConfig

    place = place_of(name)
    check_model_name(place)
    try:
        return AutoConfig.from_pretrained(place, local_files_only=Path(place).is_dir())
    except Exception as error:  # OSError, ValueError, errors of huggingface_hub's own for a value of the wrong type
        raise _not_a_model(place, error) from error


def stored_dtype(config: Any) -> torch.dtype:
    """The precision of a model's stored weights according to its config.json; float32 if that names none."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def load_plain(name: str | Path, dtype: torch.dtype, reading: Mapping[str, Any] | None = None) -> nn.Module:
    """A plain Hugging Face model whose parameters were all read from its files.

    `reading` are further options of `from_pretrained`, for instance `quantised.reading_options`.

    Raises AlignerProbeError where the model cannot be read, and where weights are missing or have other sizes than
    config.json says. transformers alone would replace such weights by random ones.
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
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
                **(reading or {}),
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
    """Hold back what transformers logs about missing weights; log it after the block unless the block raised."""
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
    """The tokenizer of a model; None where a local folder has none.

    Raises AlignerProbeError for a tokenizer that transformers cannot read.
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


def _fingerprint_as_stored(name: str, config: Any, dtype: torch.dtype, quantization: str | None) -> str | None:
    """The fingerprint of the plain weights of a base that is about to be read in float16 or to be quantised.

    It is computed in the stored precision. A weight that is rounded to float16 and then to bfloat16 can differ from the
    weight rounded to bfloat16 directly. None where the base has this fingerprint anyway.
    """
    stored = stored_dtype(config)
    if quantization is None and (dtype != torch.float16 or stored == torch.float16):
        return None
    plain = load_model(name, dtype=stored)
    value, is_large = fingerprint(plain), n_base_parameters(plain) >= SMALL
    del plain
    if is_large:
        gc.collect()  # a bridge holds itself, and another copy of the base is about to be read
    return value


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
    """Turn off the gradients of all parameters of a bridge.

    This comes after the bridge is built, because building splits fused projections into new, trainable ones.
    """
    return model.requires_grad_(False).eval()


def check_raw(model: TransformerBridge) -> TransformerBridge:
    """The bridge itself. Raises AlignerProbeError if its weights were processed or its family is unknown."""
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
    """The device of the base model's parameters."""
    return next(model.original_model.parameters()).device


def dtype_of(model: TransformerBridge) -> torch.dtype:
    """The precision of the base model's parameters, and so of its residual stream."""
    return next(model.original_model.parameters()).dtype


def base_parameters(model: TransformerBridge) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Every parameter that the forward pass of the base model uses, as (module, name, parameter).

    A tied parameter comes once for each module that uses it. Fused projections are left out: the bridge splits them
    into new ones and computes with those.
    """
    unused = family_of(architecture_of(model)).unused_modules
    for path, module in model.original_model.named_modules():
        if any(part in path for part in unused):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, parameter


def embedding_rows(model: TransformerBridge) -> int:
    """Number of rows of the base model's embedding; token ids must be lower."""
    return model.W_E.shape[0]


def n_base_parameters(model: TransformerBridge) -> int:
    """Number of parameters of the base model, of a quantised one those it was made of; tied parameters count once."""
    return sum({id(parameter): numel_of(parameter) for _, _, parameter in base_parameters(model)}.values())


def quantization_in(model: TransformerBridge) -> str | None:
    """The quantisation of a base model, "nf4" or "int8"; None for plain weights."""
    return packing_of(model.original_model)


def precision_in_words(model: TransformerBridge) -> str:
    """The precision of a base model for messages: "float32", or "nf4, computing in float32"."""
    dtype, packing = str(dtype_of(model)).removeprefix("torch."), quantization_in(model)
    return dtype if packing is None else f"{packing}, computing in {dtype}"


def threads_for(model: TransformerBridge) -> Threads:
    """The number of CPU threads for work with this base model, and why; `aligner_probe.threads` has the rule."""
    return threads_of_size(n_base_parameters(model), device_of(model).type)
