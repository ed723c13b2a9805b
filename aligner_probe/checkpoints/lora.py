"""This project's LoRA to and from PEFT's LoRA checkpoint (`peft_lora.py`).

PEFT adapts a projection by its name in the Hugging Face model. So only families with a projection each for query, key,
value and output have a PEFT checkpoint here. GPT-2, GPT-NeoX and Phi-3 compute query, key and value in one projection.
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
from aligner_probe.families import FAMILIES, Family
from aligner_probe.models import architecture_of


def separate_projections(architecture: object) -> Family:
    """The family of an architecture, if its LoRA has a PEFT checkpoint; raises AlignerProbeError otherwise."""
    possible = [name for name, family in FAMILIES.items() if family.has_separate_projections]
    if not isinstance(architecture, str) or architecture not in possible:
        raise AlignerProbeError(
            f"{architecture} has queries, keys and values in one projection, so its LoRA has no PEFT form here; "
            f"expected one of {', '.join(possible)}"
        )
    return FAMILIES[architecture]


def base_name(model: TransformerBridge) -> str | None:
    """The hub id or folder that a model was loaded from; None for one that was given as an object."""
    name = model.cfg.model_name
    return None if name == architecture_of(model) else name


def from_adapter(adapter: LoRA) -> LoRACheckpoint:
    """The trained parameters of an adapter, under PEFT's names; raises AlignerProbeError as `separate_projections`."""
    family = separate_projections(architecture_of(adapter.model))
    tensors = {name: tensor.detach().cpu() for name, tensor in adapter.state_dict().items()}
    options = adapter.config
    return _from_tensors(tensors, family, options.r, options.alpha, base_name(adapter.model), "in memory")


def from_folder(folder: Path, config: dict[str, Any]) -> LoRACheckpoint:
    """A LoRA folder that `save_adapter` wrote, read without its base model; `config` is its adapter_config.json.

    Raises:
        CheckpointError: The folder is damaged.
        AlignerProbeError: As `separate_projections`.
    """
    provenance = native.read_provenance(folder)
    try:
        architecture = provenance["base"]["architecture"]
        base = provenance.get("metadata", {}).get("base_model")
        r, alpha = rank_and_scale(config["options"]["r"], config["options"]["alpha"], folder)
        stored = read_tensors(folder / native.WEIGHTS)
        tensors = {name: tensor for name, tensor in stored.items() if not name.startswith("initial.")}
        family = separate_projections(architecture)
        return check(_from_tensors(tensors, family, r, alpha, None if base == architecture else base, str(folder)))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(folder, f"is a damaged LoRA folder ({error!r}); save it again") from error


def _from_tensors(
    tensors: StateDict, family: Family, r: int, alpha: float | int, base: str | None, source: str
) -> LoRACheckpoint:
    halves: dict[str, dict[tuple[int, str], Tensor]] = {"A": {}, "B": {}}
    modules = {str(projection): module for projection, module in family.modules.items()}
    for name, tensor in tensors.items():
        half, target_of_layer = name.split(".")
        layer, target = target_of_layer.split("_")
        if target in TARGETS and target not in modules:
            raise AlignerProbeError(
                f"the family {family.architecture} does not name its {target} projection, so PEFT's name of it is not "
                "known; expected it in the field `modules` of the family"
            )
        halves[half][int(layer), modules[target]] = tensor
    return LoRACheckpoint(
        r=r, alpha=alpha, A=halves["A"], B=halves["B"], stack=family.layers, source=source, base_model=base
    )


def unfilled(checkpoint: LoRACheckpoint, model: TransformerBridge) -> tuple[LoRA, StateDict]:
    """A new adapter on `model` with the checkpoint's options, and the tensors that have to be loaded into it.

    Raises:
        CheckpointError: The checkpoint's modules are not projections of attention or MLP in this model, or not the same
            ones in every layer from a first one up to the last.
        AlignerProbeError: As `separate_projections`.
    """
    family = separate_projections(architecture_of(model))
    module_of = {str(projection): module for projection, module in family.modules.items()}
    target_of = {module_of[target]: target for target in TARGETS if target in module_of}
    targets = [target for module, target in target_of.items() if module in checkpoint.modules]
    unknown = sorted(set(checkpoint.modules) - set(target_of))
    if checkpoint.stack != family.layers or unknown:
        adapted = f"{checkpoint.stack}.N.{(unknown or checkpoint.modules)[0]}"
        *others, last = target_of
        raise CheckpointError(
            checkpoint.source,
            f"adapts {adapted} (base {checkpoint.base_model or 'not named'}), which {architecture_of(model)} has not, "
            f"or not within reach of a hook point; expected {family.layers}.N with {', '.join(others)} or {last}",
        )
    expected = range(checkpoint.layers[0], model.cfg.n_layers)
    gaps = [
        f"{module_of[target].rsplit('.', 1)[-1]} of layer {layer}"
        for layer in expected
        for target in targets
        if (layer, module_of[target]) not in checkpoint.A
    ]
    if gaps or checkpoint.layers[-1] >= model.cfg.n_layers:
        problem = f"has nothing for {gaps[0]}" if gaps else f"adapts layer {checkpoint.layers[-1]}"
        raise CheckpointError(
            checkpoint.source,
            f"{problem}, and this model has {model.cfg.n_layers} layers; expected the same projections in every layer "
            "from a first one up to the last (layers_to_transform without gaps)",
        )
    adapter = LoRA(
        model, checkpoint.r, checkpoint.alpha, targets, start_layer=checkpoint.layers[0], dtype=checkpoint.dtype
    )
    tensors = {
        f"{half}.{layer}_{target_of[module]}": tensor
        for half, by_module in (("A", checkpoint.A), ("B", checkpoint.B))
        for (layer, module), tensor in by_module.items()
    }
    return adapter, tensors
