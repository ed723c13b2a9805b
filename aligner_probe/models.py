"""Base models: a hub id, a local folder or a model object becomes a frozen `TransformerBridge` on raw weights.

Raw, because a prefix token passes through no norm: with norms folded into the projections, as TransformerLens can do,
one and the same token would mean something else in every layer.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.artifacts import MICROWORLD, microworld_folder
from aligner_probe.errors import AlignerProbeError
from aligner_probe.hooks import family_of
from aligner_probe.overlay import overlay

#: Numbers of each tensor that enter the fingerprint: enough to tell models apart, quick on seven billion.
FINGERPRINT_NUMBERS = 4096
#: Modules whose weights a bridge keeps but no longer reads: GPT-2's, NeoX's and Phi-3's fused projections.
FUSED = (".qkv", ".gate_up_proj")


def load_model(
    name_or_path: str | Path | nn.Module,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    fast: bool = True,
) -> TransformerBridge:
    """A frozen TransformerBridge around a causal language model.

    Takes "microworld" (the base that comes along), a Hugging Face hub id, a local folder (offline; a tokenizer is
    attached where the folder has one), a Hugging Face model (wrapped in place, in its own precision and on its own
    device unless `device` is given) or a bridge. `fast` computes attention and norms with Hugging Face's kernels in
    the families of `overlay.FAST`; False leaves all of it to TransformerLens (a bridge stays as it is either way).
    Raises AlignerProbeError for a damaged or missing micro-world, a bridge whose weights were processed, an
    architecture outside `hooks.FAMILIES`, a bridge whose weights were processed, or a model that cannot be found;
    before any weight is read where that is possible.
    """
    if isinstance(name_or_path, TransformerBridge):
        return freeze(check_raw(name_or_path))
    if isinstance(name_or_path, nn.Module):
        model, tokenizer, name = name_or_path, None, type(name_or_path).__name__
        architecture = type(model).__name__
        family_of(architecture)
    else:
        name = str(name_or_path)
        model, tokenizer, architecture = _read(str(microworld_folder()) if name == MICROWORLD else name, dtype)
    if device is not None:
        model = model.to(device)
    return _bridge(model.eval(), architecture, tokenizer, name, fast)


def _read(name: str, dtype: torch.dtype) -> tuple[nn.Module, object, str]:
    from transformers import AutoConfig, AutoModelForCausalLM

    local = Path(name).is_dir()
    try:
        config = AutoConfig.from_pretrained(name, local_files_only=local)
        architecture = (config.architectures or ["none named in config.json"])[0]
        family_of(architecture)
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, local_files_only=local)
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise AlignerProbeError(
            f"cannot load a model from {name!r} ({said}); expected a Hugging Face hub id, or a local folder with "
            "config.json and weights"
        ) from error
    return model, _tokenizer(name, local), architecture


def _tokenizer(name: str, local: bool) -> object:
    """The tokenizer beside a model, or None where a local folder has none."""
    from transformers import AutoTokenizer

    if local and not any(Path(name).glob("tokenizer*")):
        return None
    return AutoTokenizer.from_pretrained(name, local_files_only=local)


def _bridge(model: nn.Module, architecture: str, tokenizer: object, name: str, fast: bool) -> TransformerBridge:
    # The public loader wants a tokenizer from a hub and forces eager attention on the Hugging Face side.
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    first = next(model.parameters())
    bridge = build_bridge_from_module(
        model,
        architecture,
        hf_config=model.config,
        tokenizer=tokenizer,
        dtype=first.dtype,
        device=first.device,
        model_name=name,
        post_adapter_hook=overlay if fast else None,
    )
    return freeze(bridge)


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
    for path, module in model.original_model.named_modules():
        if any(part in path for part in FUSED):
            continue
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield module, name, parameter


def n_base_parameters(model: TransformerBridge) -> int:
    """Numbers of the base, tied ones once."""
    return sum({id(parameter): parameter.numel() for _, _, parameter in base_parameters(model)}.values())


def fingerprint(model: TransformerBridge) -> str:
    """SHA-256 over evenly drawn numbers of every weight, rounded to bfloat16: one for a base in any precision.

    Kept on the bridge while no weight is replaced or written into.
    """
    weights = sorted(model.original_model.state_dict().items())
    now = [(name, tensor.data_ptr(), tensor._version) for name, tensor in weights]
    then, found = model.__dict__.get("_aligner_probe_fingerprint", (None, ""))
    if now == then:
        return found
    digest = hashlib.sha256()
    for name, tensor in weights:
        flat = tensor.reshape(-1)
        drawn = flat[:: max(1, flat.numel() // FINGERPRINT_NUMBERS)].to(torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(drawn.contiguous().view(torch.int16).cpu().numpy().tobytes())
    model.__dict__["_aligner_probe_fingerprint"] = (now, digest.hexdigest())
    return digest.hexdigest()
