"""LoRA through hook points (arXiv 2106.09685): low-rank additions to the projections of attention and MLP.

For a target projection W with input x, the layer computes W x + (alpha / r) B A x, with A drawn as PEFT draws it
(Kaiming uniform) and B zero at the start. Queries, keys and values take it before rotary and before any query norm,
which is where their projections end. Gate and up projection take it before the activation function.

Where TransformerLens splits a fused projection (queries, keys and values of GPT-2, GPT-NeoX and Phi-3, gate and up of
Phi-3), each part has an A and a B of its own, and PEFT would give all parts one A.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction, OfRows
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.hooks import mlp_width
from aligner_probe.models import architecture_of

#: By target: the hook points inside a block of its projection's input and output. A block calls them in this order.
HOOKS = {
    "q": ("attn.hook_in", "attn.hook_q"),
    "k": ("attn.hook_in", "attn.hook_k"),
    "v": ("attn.hook_in", "attn.hook_v"),
    "o": ("attn.hook_z", "attn.hook_out"),
    "gate": ("mlp.hook_in", "mlp.gate.hook_out"),
    "up": ("mlp.hook_in", "mlp.in.hook_out"),
    "down": ("mlp.out.hook_in", "mlp.out.hook_out"),
}
TARGETS = tuple(HOOKS)
OF_ATTENTION = ("q", "k", "v", "o")
#: PEFT's word for all targets that a base model has.
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class LoRAConfig(LayeredConfig):
    """Options of LoRA."""

    r: int = field(default=8, metadata={"help": "rank of the added matrices"})
    alpha: float | int = field(
        default=16.0, metadata={"help": "scale: what is added is multiplied by alpha / r (PEFT's lora_alpha)"}
    )
    targets: tuple[str, ...] = field(
        default=("q", "v"),
        metadata={
            "help": "projections that are adapted, some of q,k,v,o,gate,up,down, or all-linear for all that the base "
            "model has (PEFT's target_modules)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.r >= 1, f"r {self.r}; expected 1 or more")
        require(self.alpha != 0 and math.isfinite(self.alpha), f"alpha {self.alpha}; expected a number other than 0")
        unknown = [target for target in self.targets if target not in TARGETS]
        require(
            self.targets == (ALL_LINEAR,) or (bool(self.targets) and not unknown),
            f"targets {self.targets}; expected some of {', '.join(TARGETS)}, or {ALL_LINEAR} alone",
        )
        require(len(set(self.targets)) == len(self.targets), f"targets {self.targets} name one twice")


def _targets(value: Any, where: str) -> tuple[str, ...]:
    """Names of projections: a list, or one text ("q,v", "all-linear"); Hugging Face's name "q_proj" is "q"."""
    given = value.split(",") if isinstance(value, str) else list(value)
    return tuple(str(name).strip().removesuffix("_proj") for name in given)


def targets_of(model: TransformerBridge) -> tuple[str, ...]:
    """The targets that a base model has: all but "gate" where its MLP has no gate (GPT-2, GPT-NeoX)."""
    there = {f"mlp.{name}.hook_out" for name in model.blocks[0].mlp.submodules}
    return tuple(target for target, (_, out) in HOOKS.items() if out.startswith("attn.") or out in there)


@register_adapter("lora")
@accepts(model=a_model, targets=_targets)
class LoRA(Adapter):
    """Low-rank additions to the projections of attention and MLP (arXiv 2106.09685).

    Args:
        model: the base model.
        r: rank of the added matrices.
        alpha: what is added is multiplied by alpha / r.
        targets: names of the adapted projections, some of q, k, v, o (attention), gate, up and down (MLP; "gate_proj"
            is "gate"), or "all-linear", PEFT's word for all of them that the base model has. An MLP without a gate
            (GPT-2, GPT-NeoX) has up and down. `config.targets` names them one by one.
        start_layer: index of the first adapted layer; 0 adapts all layers.
        seed: start seed, which draws A.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit, and for a target that the base model does not have.
    """

    label = "LoRA"
    learning_rates = (0.004, 0.015, 0.05)
    #: Where the MLP is adapted too. On the micro-world, all linear layers with r=16 diverge at .015 and train at .004.
    mlp_rates = (0.001, 0.004, 0.015)
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

    @classmethod
    def rates_for(cls, options: Mapping[str, Any]) -> tuple[float, float, float]:
        named = _targets(options.get("targets", ()), "targets")
        return cls.learning_rates if set(named) <= set(OF_ATTENTION) else cls.mlp_rates

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
        there = targets_of(model)
        named = there if tuple(targets) == (ALL_LINEAR,) else tuple(targets)
        config = LoRAConfig(r=r, alpha=alpha, targets=named, start_layer=start_layer, seed=seed)
        missing = [target for target in named if target not in there]
        require(
            not missing,
            f"{architecture_of(model)} has no {''.join(missing[:1])} projection; expected some of {', '.join(there)}, "
            f"or {ALL_LINEAR}",
        )
        super().__init__(model, config)
        device = next(model.original_model.parameters()).device
        widths = self._widths()
        generator = self.generator()
        self.A, self.B = nn.ParameterDict(), nn.ParameterDict()
        for layer in self.layers:
            for target in config.targets:
                d_in, d_out = (widths[point] for point in HOOKS[target])
                bound = 1 / math.sqrt(d_in)  # Kaiming uniform with a = sqrt(5), as PEFT
                start = (2 * torch.rand(r, d_in, generator=generator) - 1) * bound
                self.A[f"{layer}_{target}"] = nn.Parameter(start.to(device, dtype))
                self.B[f"{layer}_{target}"] = nn.Parameter(torch.zeros(d_out, r, device=device, dtype=dtype))
        self._inputs: dict[tuple[int, str], Tensor] = {}

    def _widths(self) -> dict[str, int]:
        """By hook point of `HOOKS`, how many values it has for a token."""
        heads, kv_heads = (n * self.shape.d_head for n in (self.shape.n_heads, self.shape.n_kv_heads))
        of_mlp = dict.fromkeys(("mlp.gate.hook_out", "mlp.in.hook_out", "mlp.out.hook_in"), mlp_width(self.model))
        of_attention = {"attn.hook_q": heads, "attn.hook_k": kv_heads, "attn.hook_v": kv_heads, "attn.hook_z": heads}
        of_stream = ("attn.hook_in", "attn.hook_out", "mlp.hook_in", "mlp.out.hook_out")
        return dict.fromkeys(of_stream, self.shape.d_model) | of_attention | of_mlp

    def activations_per_token(self) -> int:
        """The inputs of the targets, each once where several share it, and r values for each target.

        The input of the output projection is not counted: attention keeps it itself.
        """
        widths = self._widths()
        inputs = {HOOKS[target][0] for target in self.config.targets} - {"attn.hook_z"}
        return sum(widths[point] for point in inputs) + self.config.r * len(self.config.targets)

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        return self._hooked(self._adder)

    @classmethod
    def not_pooled(cls, options: Mapping[str, Any]) -> str:
        return ""

    def hook_functions_by_row(self, of_rows: OfRows) -> Iterator[tuple[str, HookFunction]]:
        return self._hooked(partial(self._adder_by_row, of_rows))

    def _hooked(self, adder: Callable[[int, str, bool], HookFunction]) -> Iterator[tuple[str, HookFunction]]:
        # In the order in which a block calls them. The last target of several that share an input drops it.
        last = {HOOKS[target][0]: target for target in TARGETS if target in self.config.targets}
        for layer in self.layers:
            for point in last:
                yield f"blocks.{layer}.{point}", self._reader(layer, point)
            for target in self.config.targets:
                point, output = HOOKS[target]
                yield f"blocks.{layer}.{output}", adder(layer, target, last[point] == target)

    def _reader(self, layer: int, point: str) -> HookFunction:
        def read(tensor: Tensor, hook: HookPoint) -> None:
            self._inputs[layer, point] = tensor.flatten(2)

        return read

    def _input(self, layer: int, target: str, is_last: bool) -> Float[Tensor, "batch pos d_in"]:
        key = layer, HOOKS[target][0]
        return self._inputs.pop(key) if is_last else self._inputs[key]

    def _adder_by_row(self, of_rows: OfRows, layer: int, target: str, is_last: bool) -> HookFunction:
        def add(out: Float[Tensor, "batch pos ..."], hook: HookPoint) -> Float[Tensor, "batch pos ..."]:
            x = self._input(layer, target, is_last)
            a, b = (of_rows().tensors[f"{half}.{layer}_{target}"].to(x.dtype) for half in ("A", "B"))
            added = (x @ a.mT) @ b.mT  # (batch, pos, r), then (batch, pos, d_out)
            return out + (self.config.alpha / self.config.r * added).view(out.shape)

        return add

    def _adder(self, layer: int, target: str, is_last: bool) -> HookFunction:
        a, b = self.A[f"{layer}_{target}"], self.B[f"{layer}_{target}"]

        def add(out: Float[Tensor, "batch pos ..."], hook: HookPoint) -> Float[Tensor, "batch pos ..."]:
            x = self._input(layer, target, is_last)
            # `low` is computed as (rank, position), and B's transpose is copied, because autograd gives its products
            # the same memory layout: long rows are several times faster than long columns of r values.
            low = (a.to(x.dtype) @ x.flatten(0, 1).T).T
            up = b.to(x.dtype).T.contiguous()
            flat = out.flatten(0, 1).flatten(1)
            # One kernel computes product, scale and sum.
            return torch.addmm(flat, low, up, alpha=self.config.alpha / self.config.r).view(out.shape)

        return add
