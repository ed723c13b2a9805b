"""This project's LoRA to and from PEFT's form (`peft_lora.py`).

Queries, keys, values and outputs are adapted by name, so only families whose attention keeps them apart have a PEFT
form; GPT-2, GPT-NeoX and Phi-3 fuse them into one projection.
"""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.lora import TARGETS, LoRA
from aligner_probe.checkpoints import native
from aligner_probe.checkpoints.containers import StateDict, read_tensors
from aligner_probe.checkpoints.peft_lora import LoRACheckpoint, check, rank_and_scale
from aligner_probe.errors import AlignerProbeError, CheckpointError
from aligner_probe.models import architecture_of

#: Families with a module for each of the four projections, all under Llama's names.
APART = tuple(f"{family}ForCausalLM" for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2"))
STACK = "model.layers"
MODULES = {target: f"self_attn.{target}_proj" for target in TARGETS}


def check_family(architecture: object) -> None:
    """Raises AlignerProbeError for an architecture whose LoRA has no PEFT form of this kind."""
    if architecture not in APART:
        raise AlignerProbeError(
            f"{architecture} has queries, keys and values in one projection, so its LoRA has no PEFT form here; "
            f"expected one of {', '.join(APART)}"
        )


def base_name(model: TransformerBridge) -> str | None:
    """The hub id or folder that a model was loaded from; None for one that was given as an object."""
    name = model.cfg.model_name
    return None if name == architecture_of(model) else name


def from_adapter(adapter: LoRA) -> LoRACheckpoint:
    """Raises AlignerProbeError for a family outside `APART`."""
    check_family(architecture_of(adapter.model))
    tensors = {name: tensor.detach().cpu() for name, tensor in adapter.state_dict().items()}
    options = adapter.config
    return _from_tensors(tensors, options.r, options.alpha, base_name(adapter.model), "in memory")


def from_folder(folder: Path, config: dict[str, Any]) -> LoRACheckpoint:
    """A LoRA folder of `save_adapter`, without its base; raises CheckpointError where it is damaged."""
    provenance = native.read_provenance(folder)
    try:
        architecture = provenance["base"]["architecture"]
        base = provenance.get("metadata", {}).get("base_model")
        r, alpha = rank_and_scale(config["options"]["r"], config["options"]["alpha"], folder)
        tensors = {n: t for n, t in read_tensors(folder / native.WEIGHTS).items() if not n.startswith("initial.")}
        found = check(_from_tensors(tensors, r, alpha, None if base == architecture else base, str(folder)))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(folder, f"is a damaged LoRA folder ({error!r}); save it again") from error
    check_family(architecture)
    return found


def _from_tensors(tensors: StateDict, r: int, alpha: float | int, base: str | None, source: str) -> LoRACheckpoint:
    halves: dict[str, dict[tuple[int, str], Tensor]] = {"A": {}, "B": {}}
    for name, tensor in tensors.items():
        half, place = name.split(".")
        layer, target = place.split("_")
        halves[half][int(layer), MODULES[target]] = tensor
    return LoRACheckpoint(r=r, alpha=alpha, A=halves["A"], B=halves["B"], stack=STACK, source=source, base_model=base)


def unfilled(checkpoint: LoRACheckpoint, model: TransformerBridge) -> tuple[LoRA, StateDict]:
    """An adapter on `model` with the checkpoint's options, and the tensors that belong into it.

    Raises CheckpointError where its modules are not this model's queries, keys, values and outputs, the same ones in
    every layer from a first one up to the last.
    """
    check_family(architecture_of(model))
    targets = [target for target in TARGETS if MODULES[target] in checkpoint.modules]
    unknown = sorted(set(checkpoint.modules) - set(MODULES.values()))
    if checkpoint.stack != STACK or unknown:
        found = f"{checkpoint.stack}.N.{(unknown or checkpoint.modules)[0]}"
        raise CheckpointError(
            checkpoint.source,
            f"adapts {found} (base {checkpoint.base_model or 'not named'}), which {architecture_of(model)} has not, or "
            f"not within reach of a hook point; expected {STACK}.N.self_attn with q_proj, k_proj, v_proj or o_proj",
        )
    expected = range(checkpoint.layers[0], model.cfg.n_layers)
    gaps = [
        f"{target}_proj of layer {layer}"
        for layer in expected
        for target in targets
        if (layer, MODULES[target]) not in checkpoint.A
    ]
    if gaps or checkpoint.layers[-1] >= model.cfg.n_layers:
        said = f"has nothing for {gaps[0]}" if gaps else f"adapts layer {checkpoint.layers[-1]}"
        raise CheckpointError(
            checkpoint.source,
            f"{said}, and this model has {model.cfg.n_layers} layers; expected the same projections in every layer "
            "from a first one up to the last (layers_to_transform without gaps)",
        )
    adapter = LoRA(
        model, checkpoint.r, checkpoint.alpha, targets, start_layer=checkpoint.layers[0], dtype=checkpoint.dtype
    )
    target_of = {module: target for target, module in MODULES.items()}
    tensors = {
        f"{half}.{layer}_{target_of[module]}": tensor
        for half, by_place in (("A", checkpoint.A), ("B", checkpoint.B))
        for (layer, module), tensor in by_place.items()
    }
    return adapter, tensors
