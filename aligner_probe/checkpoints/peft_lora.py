"""PEFT's LoRA folders: read them without a base model, and write them.

`base_model.model.{stack}.{layer}.{module}.lora_A.weight` (r, d_in) and `.lora_B.weight` (d_out, r), where Llama's stack
is `model.layers` and a module for instance `self_attn.q_proj`, beside an `adapter_config.json` with `"peft_type":
"LORA"` (peft.tuners.lora). A projection W x becomes W x + s B A x with s = lora_alpha / r, or lora_alpha / sqrt(r)
under `use_rslora`.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aligner_probe.arguments import accepts
from aligner_probe.checkpoints import native, peft
from aligner_probe.checkpoints.containers import StateDict, read_tensors
from aligner_probe.checkpoints.format import CheckpointFormat
from aligner_probe.checkpoints.prefix import DTYPES, MAX_LAYER
from aligner_probe.errors import CheckpointError
from aligner_probe.html import Shown

WEIGHTS = (native.WEIGHTS, "adapter_model.bin")
PART = re.compile(
    r"^base_model\.model\.(?P<stack>\w+(?:\.\w+)*?)\.(?P<layer>\d+)\.(?P<module>.+)\.lora_(?P<half>[AB])\.weight$"
)
#: Keys of adapter_config.json with any value: names and versions, options of the training, and what the tensors say.
FREE = {
    *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping"),
    *("inference_mode", "lora_dropout", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "init_lora_weights", "loftq_config", "eva_config"),
    *("megatron_core", "qalora_group_size", "fan_in_fan_out", "runtime_config"),
}
#: Values of init_lora_weights that leave the base model as it is. PiSSA, OLoRA, CorDA and LoftQ change its weights.
STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


#: What a folder holds if one of these keys is set.
VARIANTS = {
    "use_dora": "a DoRA",
    "use_qalora": "a QALoRA",
    "use_bdlora": "a BD-LoRA",
    "bias": "a LoRA with trained biases of the base",
    "lora_bias": "a LoRA with biases of its own",
    "modules_to_save": "a LoRA with whole modules of the base trained beside it",
    "trainable_token_indices": "a LoRA with trained embeddings of tokens",
    "target_parameters": "a LoRA on parameters that are no modules",
    "layer_replication": "a LoRA on repeated layers of the base",
    "rank_pattern": "a LoRA of several ranks",
    "alpha_pattern": "a LoRA of several scales",
    "alora_invocation_tokens": "an activated LoRA, which works from certain tokens on",
    "arrow_config": "a mixture of LoRAs",
}


@dataclass(frozen=True, eq=False)
class LoRACheckpoint(Shown):
    """The trained parameters of a LoRA. No base model is needed to read them.

    `A` (r, d_in) and `B` (d_out, r) are given by layer index and module name. `stack` is the name of the list of layers
    in the Hugging Face model, and a module is named inside its layer (`self_attn.q_proj`). Every product B A is scaled
    by `alpha` / `r`.
    """

    r: int
    alpha: float | int
    A: dict[tuple[int, str], Tensor]
    B: dict[tuple[int, str], Tensor]
    stack: str
    source: str
    base_model: str | None = None

    def shown(self) -> dict[str, Any]:
        return {
            "rank": self.r,
            "alpha": self.alpha,
            "layers": f"{self.layers[0]} to {self.layers[-1]}",
            "modules": self.modules,
            "trained parameters": self.n_parameters,
            "base model": self.base_model,
            "source": self.source,
        }

    @property
    def layers(self) -> list[int]:
        """Indices of the adapted layers, from zero."""
        return sorted({layer for layer, _ in self.A})

    @property
    def modules(self) -> list[str]:
        """Names of the adapted modules inside a layer."""
        return sorted({module for _, module in self.A})

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters."""
        return next(iter(self.A.values())).dtype

    @property
    def n_parameters(self) -> int:
        """Number of trained parameters."""
        return sum(tensor.numel() for half in (self.A, self.B) for tensor in half.values())

    def __repr__(self) -> str:
        return (
            f"LoRACheckpoint(r={self.r}, alpha={self.alpha:g}, layers={self.layers[0]}..{self.layers[-1]}, "
            f"modules={', '.join(self.modules)}, base_model={self.base_model!r}, n_parameters={self.n_parameters:,})"
        )


def recognises(config: dict[str, Any] | None) -> bool:
    """Whether an adapter_config.json is of PEFT's LoRA."""
    return config is not None and config.get("peft_type") == "LORA"


def has_bias(config: dict[str, Any] | None) -> bool:
    """Whether an adapter_config.json is of PEFT's LoRA with biases of its own, which `peft_bias.py` reads."""
    return recognises(config) and bool((config or {}).get("lora_bias"))


def weights_of(folder: Path) -> Path:
    """The file of a folder's tensors. Raises CheckpointError if there is none."""
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if weights is None:
        raise CheckpointError(folder, f"has no {WEIGHTS[0]}; expected it beside {native.CONFIG}")
    return weights


@accepts()
def load_lora(folder: str | Path) -> LoRACheckpoint:
    """Read a PEFT LoRA folder, of any base model.

    Args:
        folder: The folder with adapter_config.json and the tensors.

    Returns:
        The trained parameters and what scales them.

    Raises:
        CheckpointError: The folder is damaged or contradicts itself, or it holds more than a plain LoRA (DoRA, trained
            biases, whole modules, several ranks or scales, ...).
    """
    folder = Path(folder)
    config = native.read_config(folder) if folder.is_dir() else None
    if config is None or not recognises(config):
        if config is not None and "peft_type" in config:
            said = f"is PEFT {config['peft_type']}, {peft.what_it_is(config)}"
            raise CheckpointError(folder, f"{said}. Expected {native.CONFIG} with peft_type LORA")
        raise CheckpointError(folder, f"is no PEFT folder; expected {native.CONFIG} with peft_type LORA")
    r, alpha = checked_options(folder, config)
    halves, stack = _halves(read_tensors(weights_of(folder)), folder)
    base = config.get("base_model_name_or_path")
    checkpoint = LoRACheckpoint(
        r=r,
        alpha=alpha,
        A=halves["A"],
        B=halves["B"],
        stack=stack,
        source=str(folder),
        base_model=base if isinstance(base, str) and base else None,
    )
    return check(checkpoint)


def checked_options(folder: Path, config: dict[str, Any], but_for: tuple[str, ...] = ()) -> tuple[int, float | int]:
    """The rank, and the alpha that makes alpha / rank the scale of every product B A, in an adapter_config.json.

    Raises CheckpointError for options of another variant of LoRA (except those named in `but_for`), for a start that
    changes the base's own weights, and for values that no rank or alpha can have.
    """
    for key, value in config.items():
        if key not in (*FREE, *but_for) and value not in (None, False, [], {}, "none"):
            variant = VARIANTS.get(key, "a variant of LoRA")
            raise CheckpointError(
                folder,
                f"is {variant}: it has {key} {json.dumps(value)[:80]}, which a plain LoRA does not represent; merge it "
                "into its base in PEFT (merge_and_unload)",
            )
    if config.get("init_lora_weights", True) not in STARTS:
        raise CheckpointError(
            folder,
            f"has init_lora_weights {config['init_lora_weights']!r}, which changes the base's own weights; save it in "
            "PEFT with path_initial_model_for_weight_conversion",
        )
    r, alpha = rank_and_scale(config.get("r"), config.get("lora_alpha"), folder)
    return r, alpha * math.sqrt(r) if config.get("use_rslora") else alpha


def rank_and_scale(r: Any, alpha: Any, folder: Path) -> tuple[int, float | int]:
    """The rank and alpha of a configuration; raises CheckpointError for values that no LoRA can have."""
    for value in (r, alpha):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise CheckpointError(folder, f"has r {r!r} and alpha {alpha!r}; expected two numbers")
    if r < 1 or r != int(r):
        raise CheckpointError(folder, f"has r {r!r}; expected a rank from 1 up")
    return int(r), alpha


def _halves(tensors: StateDict, folder: Path) -> tuple[dict[str, dict[tuple[int, str], Tensor]], str]:
    halves: dict[str, dict[tuple[int, str], Tensor]] = {"A": {}, "B": {}}
    stacks = set()
    for name, tensor in tensors.items():
        match = PART.match(name)
        if not match or int(match["layer"]) > MAX_LAYER:
            raise CheckpointError(
                folder,
                f"holds {name!r}; expected lora_A and lora_B of modules inside layers only (an embedding's, or another "
                "variant's, is not represented)",
            )
        stacks.add(match["stack"])
        halves[match["half"]][int(match["layer"]), match["module"]] = tensor
    if len(stacks) != 1:
        raise CheckpointError(folder, f"adapts layers of {', '.join(sorted(stacks))}; expected one stack of layers")
    return halves, stacks.pop()


def check(checkpoint: LoRACheckpoint) -> LoRACheckpoint:
    """The checkpoint itself. Raises CheckpointError unless its tensors are pairs with one rank and one precision."""
    if set(checkpoint.A) != set(checkpoint.B) or not checkpoint.A:
        layer, module = (
            sorted(set(checkpoint.A) ^ set(checkpoint.B))[0] if checkpoint.A or checkpoint.B else (0, "any module")
        )
        raise CheckpointError(checkpoint.source, f"has only one of lora_A and lora_B for {module} of layer {layer}")
    kinds = {tensor.dtype for half in (checkpoint.A, checkpoint.B) for tensor in half.values()}
    if len(kinds) != 1 or not kinds <= set(DTYPES):
        raise CheckpointError(
            checkpoint.source, f"is stored in {', '.join(sorted(map(str, kinds)))}; expected one precision"
        )
    for half, by_module, axis in (("A", checkpoint.A, 0), ("B", checkpoint.B, 1)):
        for (layer, module), tensor in by_module.items():
            if tensor.dim() != 2 or tensor.shape[axis] != checkpoint.r:
                raise CheckpointError(
                    checkpoint.source,
                    f"has lora_{half} {tuple(tensor.shape)} for {module} of layer {layer}, but {native.CONFIG} says "
                    f"r {checkpoint.r}; one of the two files is from another run",
                )
            if not bool(torch.isfinite(tensor).all()):
                raise CheckpointError(checkpoint.source, f"has NaN or infinite values in {module} of layer {layer}")
    return checkpoint


def write(checkpoint: LoRACheckpoint, folder: str | Path, *, base: str | None = None) -> Path:
    """Write a folder that `PeftModel.from_pretrained` and `load_lora` can read, in the precision of the checkpoint.

    Raises AlignerProbeError if the folder exists or cannot be written.
    """
    tensors = {
        f"base_model.model.{checkpoint.stack}.{layer}.{module}.lora_{half}.weight": tensor
        for half, by_module in (("A", checkpoint.A), ("B", checkpoint.B))
        for (layer, module), tensor in by_module.items()
    }
    config = {
        "peft_type": "LORA",
        "r": checkpoint.r,
        "lora_alpha": checkpoint.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": [module.rsplit(".", 1)[-1] for module in checkpoint.modules],
        "layers_to_transform": checkpoint.layers,
    }
    return peft.write_folder(folder, tensors, config, base or checkpoint.base_model)


FORMAT = CheckpointFormat(
    name="PEFT LoRA",
    holds=LoRACheckpoint,
    recognises=lambda stored: recognises(stored.config) and not has_bias(stored.config),
    export_name="peft",
    write=lambda checkpoint, path, base: write(checkpoint, path, base=base.name),
    consumer=peft.CONSUMER,
)
