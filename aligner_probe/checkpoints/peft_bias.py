"""An adapter that adds a constant, as PEFT's LoRA on the attention output projection with a bias of its own.

PEFT's LoRA with `lora_bias=True` computes W x + s (B A x + b). With A = B = 0 only the bias s b is left, so b is the
vector that the adapter adds to the layer's attention output, the same one that `merged.py` and `steering.py` write.
A merged model is one adapter for all rows. Here PEFT mixes many such adapters and the base model in one batch
(`adapter_names=["one", "other", "__base__"]`).

`base_model.model.{module}.lora_A.weight` (1, d_in) and `.lora_B.weight` (d_model, 1), both of zeros, and
`.lora_B.bias` (d_model,), beside an `adapter_config.json` with `"lora_bias": true`. PEFT has `lora_bias` since 0.14.
"""

import re
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import OutputBias
from aligner_probe.checkpoints import peft, peft_lora
from aligner_probe.checkpoints.containers import StateDict, read_tensors
from aligner_probe.checkpoints.format import CheckpointFormat, KnownBase
from aligner_probe.checkpoints.prefix import DTYPES, dtype_name
from aligner_probe.checkpoints.steering import ConstantShifts
from aligner_probe.errors import CheckpointError
from aligner_probe.families import family_of
from aligner_probe.models import architecture_of

PART = re.compile(r"^base_model\.model\.(?P<module>.+)\.lora_(?P<part>A\.weight|B\.weight|B\.bias)$")
NOTES = (
    "one bias of LoRA for each layer, with A = B = 0: PEFT 0.14 or newer adds it, and mixes such adapters and the base "
    'in one batch (adapter_names=[..., "__base__"])',
    "vLLM has no biases of LoRA, and PEFT does not merge them into a projection that has no bias: export to merged for "
    "that",
)


def write(shifts: ConstantShifts, folder: Path, base: KnownBase) -> Path:
    """Write a folder that `PeftModel.from_pretrained` and `load` can read, with the biases in float32.

    Args:
        shifts: The vectors.
        folder: A new folder.
        base: The base model; its architecture and its configuration must be known.

    Raises:
        AlignerProbeError: The folder exists or cannot be written.
    """
    family = family_of(base.architecture)
    heads = base.config.num_attention_heads
    tensors: StateDict = {}
    for layer, shift in sorted(shifts.vectors.items()):
        name = f"base_model.model.{family.module(layer, 'o')}"
        d_model = len(shift)
        d_head = getattr(base.config, "head_dim", None) or d_model // heads
        tensors[f"{name}.lora_A.weight"] = torch.zeros(1, heads * d_head)
        tensors[f"{name}.lora_B.weight"] = torch.zeros(d_model, 1)
        tensors[f"{name}.lora_B.bias"] = shift.float()
    config = {
        "peft_type": "LORA",
        "r": 1,
        "lora_alpha": 1,
        "lora_dropout": 0.0,
        "lora_bias": True,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [family.modules["o"]],
        "layers_to_transform": sorted(shifts.vectors),
    }
    return peft.write_folder(folder, tensors, config, base.name)


def load(folder: Path, config: dict[str, Any], model: TransformerBridge) -> OutputBias:
    """Read a folder of PEFT as an OutputBias on a model, in the precision in which the biases are stored.

    Args:
        folder: The folder.
        config: The content of its adapter_config.json; `lora_bias` is set.
        model: The base model.

    Raises:
        CheckpointError: The folder is damaged, adds more than a constant to the attention output, or does not fit the
            model.
    """
    r, alpha = peft_lora.checked_options(folder, config, but_for=("lora_bias",))
    biases = _biases(folder, read_tensors(peft_lora.weights_of(folder)), model)
    kinds = {bias.dtype for bias in biases.values()}
    d_model = model.cfg.d_model
    wrong = [f"{tuple(bias.shape)} in layer {layer}" for layer, bias in biases.items() if bias.shape != (d_model,)]
    if wrong or len(kinds) != 1 or not kinds <= set(DTYPES):
        stored = ", ".join(sorted(map(dtype_name, kinds)))
        raise CheckpointError(
            folder, f"has biases {', '.join(wrong[:3])} in {stored}; expected ({d_model},) in one precision"
        )
    if not all(bool(torch.isfinite(bias).all()) for bias in biases.values()):
        raise CheckpointError(folder, "has NaN or infinite values in a bias; take an earlier checkpoint")
    adapter = OutputBias(model, start_layer=min(biases), dtype=kinds.pop())
    with torch.no_grad():
        for layer, bias in biases.items():
            adapter.bias[layer - min(biases)] = (bias.double() * (alpha / r)).to(bias.dtype)
    return adapter


def _biases(folder: Path, tensors: StateDict, model: TransformerBridge) -> dict[int, Float[Tensor, " d_model"]]:
    """The biases by layer; a layer without one adds nothing. Raises CheckpointError for anything beside constants."""
    family = family_of(architecture_of(model))
    layer_of = {family.module(layer, "o"): layer for layer in range(model.cfg.n_layers)}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        match = PART.match(name)
        if not match or match["module"] not in layer_of:
            raise CheckpointError(
                folder,
                f"is a LoRA with biases of its own, and holds {name!r}; expected those of the attention output "
                f"projection alone ({family.module('N', 'o')}) on this {architecture_of(model)}: use it in PEFT",
            )
        parts.setdefault(match["module"], {})[match["part"]] = tensor
    for module, stored in parts.items():
        if set(stored) != {"A.weight", "B.weight", "B.bias"}:
            raise CheckpointError(folder, f"has only {', '.join(sorted(stored))} of lora_A and lora_B for {module}")
        if bool(stored["A.weight"].any()) and bool(stored["B.weight"].any()):
            raise CheckpointError(
                folder,
                f"is a LoRA with biases of its own: it adds a bias and, in {module}, a product B A that is not zero, "
                "which no adapter here represents: use it in PEFT",
            )
    if not parts:
        raise CheckpointError(folder, "holds no tensors; expected biases of the attention output projection")
    return {layer_of[module]: stored["B.bias"] for module, stored in parts.items()}


FORMAT = CheckpointFormat(
    name="PEFT LoRA bias",
    holds=ConstantShifts,
    recognises=lambda stored: peft_lora.has_bias(stored.config),
    export_name="peft-bias",
    write=write,
    notes=lambda shifts, base: list(NOTES),
    consumer=peft.CONSUMER,
)
