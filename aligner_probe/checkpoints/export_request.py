"""What is asked of an export, and the adapter and the base model that it means."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter, LoRA, OutputBias
from aligner_probe.adapters.constant import check_constant
from aligner_probe.adapters.prefix import PrefixAdapter
from aligner_probe.checkpoints import lora, merged, peft_lora
from aligner_probe.checkpoints.adapters import load_adapter
from aligner_probe.checkpoints.format import KnownBase
from aligner_probe.checkpoints.given import from_adapter
from aligner_probe.checkpoints.peft_base import CHEAP_BYTES
from aligner_probe.checkpoints.peft_lora import LoRACheckpoint
from aligner_probe.checkpoints.prefix import METHOD_NAMES, GateFunction, PrefixCheckpoint
from aligner_probe.checkpoints.reading import load_checkpoint
from aligner_probe.errors import AlignerProbeError
from aligner_probe.models import (
    architecture_of,
    config_of_base,
    dtype_of,
    load_model,
    n_base_parameters,
    place_of,
    quantization_in,
    read_config,
    stored_dtype,
)

#: The export that is no checkpoint format: a model, which is read by Hugging Face and not as an adapter.
MERGED = "merged"
#: What a base's config.json says that its adapters depend on.
SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "vocab_size"),
)


@dataclass(frozen=True)
class ExportRequest:
    """The arguments of `export_adapter`; `config` is the source's adapter_config.json, empty where there is none."""

    source: str | Path | Adapter
    config: dict[str, Any]
    to: str
    out: Path
    model: str | Path | None
    dtype: torch.dtype | None
    force: bool
    gate: GateFunction | str | None
    adapter_length: int | None
    quantization: str | None
    check: bool
    others: tuple[str | Path | Adapter, ...]

    @property
    def method(self) -> Any:
        """The method of the adapter, where the source tells without being read."""
        if isinstance(self.source, Adapter):
            return self.source.method
        if peft_lora.has_bias(self.config):
            return OutputBias.method
        return LoRA.method if self.is_peft_lora else self.config.get("method")

    @property
    def is_peft_lora(self) -> bool:
        """Whether the source is a LoRA folder of PEFT, without biases of its own."""
        return peft_lora.recognises(self.config) and not peft_lora.has_bias(self.config)

    @property
    def is_lora(self) -> bool:
        """Whether the adapter is a LoRA, in memory or in a folder."""
        return self.method == LoRA.method


def check_quantization(asked: ExportRequest) -> None:
    """Raises AlignerProbeError for a merge into packed weights, and for a quantisation of a base that is not read."""
    in_memory = quantization_in(asked.source.model) if isinstance(asked.source, Adapter) else None
    packing = asked.quantization or in_memory
    if asked.to == MERGED and packing is not None:
        way_on = "save it (ap.save_adapter) and export that folder" if in_memory else "leave quantization out"
        raise AlignerProbeError(
            f"an adapter is not merged into a base in {packing}: {way_on} with the plain model it was made of "
            "(model=, --model); the merged model can be quantised afterwards"
        )
    if asked.quantization is not None and (asked.model is None or isinstance(asked.source, Adapter)):
        raise AlignerProbeError(
            f"quantization {asked.quantization!r} is for a base model that is read for the export; expected a saved "
            "adapter and its base model (model=, --model)"
        )


def prefix_checkpoint(asked: ExportRequest) -> PrefixCheckpoint:
    """The parameters of a prefix adapter. Raises AlignerProbeError for any other method."""
    if isinstance(asked.method, str) and asked.method not in METHOD_NAMES:
        raise AlignerProbeError(
            f"{asked.method} has no prefix that lit-llama, PEFT or the native format could hold; output_bias can be "
            "exported to merged, steering and peft-bias, lora to peft and native"
        )
    if not isinstance(asked.source, Adapter):
        return load_checkpoint(asked.source, gate=asked.gate, adapter_length=asked.adapter_length)
    assert isinstance(asked.source, PrefixAdapter)
    return from_adapter(asked.source)


def lora_checkpoint(asked: ExportRequest) -> LoRACheckpoint:
    """The parameters of a LoRA in memory, in a PEFT folder, or in a folder of `save_adapter`."""
    if isinstance(asked.source, Adapter):
        assert isinstance(asked.source, LoRA)
        return lora.from_adapter(asked.source)
    if asked.is_peft_lora:
        return peft_lora.load_lora(asked.source)
    return lora.from_folder(Path(asked.source), asked.config)


def known_base(asked: ExportRequest) -> KnownBase:
    """What is known of the base model without loading it: from `model`, or from the adapter in memory."""
    if asked.model is not None:
        return KnownBase(place_of(asked.model), read_config(asked.model))
    if isinstance(asked.source, Adapter):
        bridge = asked.source.model
        return KnownBase(lora.base_name(bridge), config_of_base(bridge), architecture_of(bridge))
    return KnownBase()


def plain_base(asked: ExportRequest) -> str | Path | None:
    """The base model that an export can be checked on: a hub id or a folder; None where it is not known.

    Of an adapter in memory, this is the model that its base was loaded from, unless that is too large to be read once
    more without being asked.
    """
    if asked.model is not None or not isinstance(asked.source, Adapter):
        return asked.model
    bridge = asked.source.model
    n_bytes = n_base_parameters(bridge) * dtype_of(bridge).itemsize
    return lora.base_name(bridge) if n_bytes <= CHEAP_BYTES else None


def loaded(asked: ExportRequest, dtype: torch.dtype) -> Adapter:
    """The adapter of the request on its base model, which is read in this precision."""
    assert not isinstance(asked.source, Adapter)
    assert asked.model is not None
    return _load(asked, asked.source, load_model(asked.model, dtype=dtype, quantization=asked.quantization))


def loaded_others(asked: ExportRequest, model: TransformerBridge) -> dict[str, Adapter]:
    """The adapters of `others` by the name that messages give them; those in files are put on this base model."""
    named = {}
    for index, other in enumerate(asked.others):
        if isinstance(other, Adapter):
            named[f"others[{index}], {other.method}"] = other
        else:
            named[str(other)] = _load(asked, other, model)
    return named


def _load(asked: ExportRequest, source: str | Path, model: TransformerBridge) -> Adapter:
    return load_adapter(source, model, force=asked.force, gate=asked.gate, adapter_length=asked.adapter_length)


def on_base(asked: ExportRequest) -> tuple[Adapter, torch.dtype]:
    """The adapter on its base model and the model's precision, where the adapter adds a constant.

    Raises AlignerProbeError, before any weights of the base model are read, where it does not add a constant, and where
    the base model is needed and not named, does not fit, or cannot take a merge.
    """
    _check_constant(asked)
    in_memory = isinstance(asked.source, Adapter)
    if asked.model is None and (asked.to == MERGED or not in_memory):
        raise AlignerProbeError(f"{asked.to} needs the base that the adapter is for: --model M, a hub id or a folder")
    config = None if asked.model is None else read_config(asked.model)
    if isinstance(asked.source, Adapter) and asked.model is not None:
        check_sizes(config, asked.source.model, asked.model)
    if asked.to == MERGED:
        merged.target_config(config)
    if isinstance(asked.source, Adapter):
        return asked.source, asked.dtype or dtype_of(asked.source.model)
    dtype = asked.dtype or stored_dtype(config)
    return loaded(asked, dtype), dtype


def _check_constant(asked: ExportRequest) -> None:
    """Raise AlignerProbeError unless the adapter adds a constant. Its base model is not needed for that."""
    if isinstance(asked.source, Adapter):
        check_constant(asked.source.method, getattr(asked.source.config, "n_tokens", None))
    elif asked.is_lora:
        check_constant(LoRA.method)
    elif asked.method != OutputBias.method:
        checkpoint = prefix_checkpoint(asked)
        check_constant(checkpoint.method, checkpoint.n_tokens)


def check_sizes(config: Any, bridge: TransformerBridge, model: str | Path) -> None:
    """Raise AlignerProbeError where the sizes or the architecture of `model` are not those of an adapter's base model.

    That its weights are the same is checked later, by comparing logits.
    """
    own = config_of_base(bridge)
    pairs = {name: (getattr(config, name, None), getattr(own, name, None)) for name in SIZES}
    pairs = {"architecture": ((config.architectures or [None])[0], architecture_of(bridge))} | pairs
    differ = [f"{name} {there} there and {here} here" for name, (there, here) in pairs.items() if there != here]
    if differ:
        raise AlignerProbeError(
            f"{model} is not the base that this adapter is on: {', '.join(differ)}; name the adapter's own base"
        )
