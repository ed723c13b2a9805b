"""LoRA through hook points (arXiv 2106.09685): low-rank additions to attention projections.

For a target projection W with input x, the layer computes W x + (alpha / r) B A x, with A drawn as PEFT draws it
(Kaiming uniform) and B zero at the start. Queries, keys and values take it before rotary and before any query norm,
which is where their projections end.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts

TARGETS = ("q", "k", "v", "o")


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(LayeredConfig):
    """Options of LoRA."""

    r: int = field(default=8, metadata={"help": "rank of the added matrices"})
    alpha: float | int = field(
        default=16.0, metadata={"help": "scale: what is added is multiplied by alpha / r (PEFT's lora_alpha)"}
    )
    targets: tuple[str, ...] = field(
        default=("q", "v"), metadata={"help": "projections that are adapted, some of q,k,v,o (PEFT's target_modules)"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.r >= 1, f"r {self.r}; expected 1 or more")
        require(self.alpha != 0 and math.isfinite(self.alpha), f"alpha {self.alpha}; expected a number other than 0")
        unknown = [target for target in self.targets if target not in TARGETS]
        require(bool(self.targets) and not unknown, f"targets {self.targets}; expected some of {', '.join(TARGETS)}")
        require(len(set(self.targets)) == len(self.targets), f"targets {self.targets} name one twice")


def _targets(value: Any, where: str) -> tuple[str, ...]:
    """Names of projections: a list, or one text ("q,v"); Hugging Face's name "q_proj" is "q"."""
    given = value.split(",") if isinstance(value, str) else list(value)
    return tuple(str(name).strip().removesuffix("_proj") for name in given)


@register_adapter("lora")
@accepts(model=a_model, targets=_targets)
class LoRA(Adapter):
    """Low-rank additions to attention projections (arXiv 2106.09685).

    Args:
        model: the base model.
        r: rank of the added matrices.
        alpha: what is added is multiplied by alpha / r.
        targets: TransformerLens's names of the adapted projections, some of q, k, v and o ("q_proj" is "q").
        start_layer: index of the first adapted layer; 0 adapts all layers.
        seed: start seed, which draws A.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit.
    """

    label = "LoRA"
    learning_rates = (0.004, 0.015, 0.05)
    #: finetune/lora.py, which is lit-llama's: its warm-up is in steps, and its weight decay is AdamW's default. The
    #: dropout of .05 is not applied: its masks would have to be the same in a resumed run, in a block that is computed
    #: twice, and in a batch that several runs share.
    published_recipe: ClassVar = {
        "sft": {
            "lr": 3e-4,
            "weight_decay": 0.01,
            "batch_size": 128,
            "micro_batch_size": 4,
            "epochs": 3.0,
            "warmup_steps": 100,
            "warmup_counts": "steps",
            "mask_prompt": False,
        }
    }
    published_notes: ClassVar = {
        "sft": "their LoRA's dropout of .05 is not applied",
        "preference": "they trained no LoRA by DPO, so the recipe is their Aligner's",
    }
    export_instead = "export it to peft, which merges it into the weights (merge_and_unload)"
    config: LoRAConfig

    def __init__(
        self,
        model: TransformerBridge,
        r: int = 8,
        alpha: float | int = 16.0,
        targets: Sequence[str] = ("q", "v"),
        start_layer: int = 0,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float32,
    ):
        config = LoRAConfig(r=r, alpha=alpha, targets=tuple(targets), start_layer=start_layer, seed=seed)
        super().__init__(model, config)
        device = next(model.original_model.parameters()).device
        heads, kv_heads = (n * self.shape.d_head for n in (self.shape.n_heads, self.shape.n_kv_heads))
        sizes = {
            "q": (self.shape.d_model, heads),
            "k": (self.shape.d_model, kv_heads),
            "v": (self.shape.d_model, kv_heads),
            "o": (heads, self.shape.d_model),
        }
        generator = self.generator()
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for layer in self.layers:
            for target in config.targets:
                d_in, d_out = sizes[target]
                bound = 1 / math.sqrt(d_in)  # Kaiming uniform with a = sqrt(5), as PEFT
                start = (2 * torch.rand(r, d_in, generator=generator) - 1) * bound
                self.A[f"{layer}_{target}"] = nn.Parameter(start.to(device, dtype))
                self.B[f"{layer}_{target}"] = nn.Parameter(torch.zeros(d_out, r, device=device, dtype=dtype))
        self._inputs: dict[tuple[int, bool], Tensor] = {}

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            attention = f"blocks.{layer}.attn"
            if set(self.config.targets) - {"o"}:
                yield f"{attention}.hook_in", self._reader(layer, of_output=False)
            for target in (t for t in self.config.targets if t != "o"):
                yield f"{attention}.hook_{target}", self._adder(layer, target)
            if "o" in self.config.targets:
                yield f"{attention}.hook_z", self._reader(layer, of_output=True)
                yield f"{attention}.hook_out", self._adder(layer, "o")

    def _reader(self, layer: int, *, of_output: bool) -> HookFunction:
        def read(tensor: Tensor, hook: HookPoint) -> None:
            self._inputs[layer, of_output] = tensor.flatten(2)

        return read

    def _adder(self, layer: int, target: str) -> HookFunction:
        a, b = self.A[f"{layer}_{target}"], self.B[f"{layer}_{target}"]
        of_output = target == "o"
        # The hooks of query, key and value are called in this order; the last one drops the input that they share.
        is_last = of_output or target == [t for t in TARGETS if t in self.config.targets and t != "o"][-1]

        def add(out: Float[Tensor, "batch pos ..."], hook: HookPoint) -> Float[Tensor, "batch pos ..."]:
            x = self._inputs.pop((layer, of_output)) if is_last else self._inputs[layer, of_output]
            # `low` is computed as (rank, position), and B's transpose is copied, because autograd gives its products
            # the same memory layout: long rows are several times faster than long columns of r values.
            low = (a.to(x.dtype) @ x.flatten(0, 1).T).T
            up = b.to(x.dtype).T.contiguous()
            flat = out.flatten(0, 1).flatten(1)
            # One kernel computes product, scale and sum.
            return torch.addmm(flat, low, up, alpha=self.config.alpha / self.config.r).view(out.shape)

        return add
