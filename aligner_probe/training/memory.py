"""How much memory a training step takes, estimated from sizes before anything is computed.

    print(estimate_memory(adapter, recipe, pos=512))
    base 13.5 GB, adapter 0.0 GB, optimiser 0.0 GB, activations 2.2 GB (4 x 512 tokens): 15.7 GB

The base is frozen, so a linear layer keeps nothing for the backward pass; what is kept, in numbers a token and layer
from the adapter's first layer on, is each norm's input (in float32), query, key, value and head outputs of the kernel
(and the pattern, where attention is written out), and what the MLP's activation and product need. On top, at the peak,
come logits, their log-softmax and their gradients. Numbers of temporaries are those of torch 2.13; tests hold the
estimate against the allocator's peak.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.hooks import AttentionShape, family_of
from aligner_probe.models import architecture_of, device_of, dtype_of, n_base_parameters
from aligner_probe.overlay import FAST
from aligner_probe.training.recipe import Recipe

#: Activations may be estimated at up to 1 / SURELY of what they are (families whose attention is written out).
SURELY = 0.6
GB = 1e9


@dataclass(frozen=True)
class BaseSizes:
    """What a base's share of the memory depends on; `itemsize` are bytes a number.

    `pattern`: bytes of each number of an attention pattern, 0 where a fused kernel keeps none. `mlp_kept`: tensors of
    size d_mlp that an MLP keeps. `norms`: of a layer.
    """

    d_model: int
    n_layers: int
    n_heads: int
    d_head: int
    d_mlp: int
    d_vocab: int
    n_parameters: int
    itemsize: int
    pattern: int = 0
    mlp_kept: int = 3
    norms: int = 2

    @classmethod
    def of(cls, model: TransformerBridge) -> "BaseSizes":
        shape, cfg = AttentionShape.of(model), model.cfg
        gated = bool(getattr(cfg, "gated_mlp", False))
        written_out = str(getattr(cfg, "act_fn", "")) in ("gelu_new", "gelu_fast")
        itemsize = dtype_of(model).itemsize
        return cls(
            d_model=shape.d_model,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            d_head=shape.d_head,
            d_mlp=cfg.d_mlp or 4 * shape.d_model,
            d_vocab=cfg.d_vocab,
            n_parameters=n_base_parameters(model),
            itemsize=itemsize,
            pattern=0 if architecture_of(model) in FAST else _pattern_bytes(model, itemsize),
            mlp_kept=3 if gated else 4 if written_out else 1,
            norms=sum(name.startswith("ln") for name in model.blocks[0].submodules),
        )

    def kept_by_a_layer(self, pos: int, extra: int) -> int:
        """Bytes a token that one layer keeps for the backward pass; `extra` numbers of them for the adapter."""
        numbers = 4 * self.n_heads * self.d_head + self.mlp_kept * self.d_mlp + extra
        return self.norms * 4 * self.d_model + self.itemsize * numbers + self.pattern * self.n_heads * pos

    def room_of_a_layer(self, pos: int) -> int:
        """Bytes a token of the largest temporaries in a layer's backward pass: gradients of its MLP and its heads."""
        scores = 4 * self.itemsize * self.n_heads * pos if self.pattern else 0
        return self.itemsize * (2 * self.d_mlp + 2 * self.n_heads * self.d_head) + scores

    def head(self) -> int:
        """Bytes a token of logits, their log-softmax and their gradients, at the peak."""
        return self.d_vocab * (12 + self.itemsize % 4) + 4 * self.d_model


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by what they are for; `rows` x `pos` are the tokens of one forward pass."""

    base: int
    adapter: int
    optimiser: int
    activations: int
    rows: int
    pos: int

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.optimiser + self.activations

    def __add__(self, other: "MemoryEstimate") -> "MemoryEstimate":
        """Of two that share a base and a batch, whose rows are as long."""
        return MemoryEstimate(
            self.base,
            self.adapter + other.adapter,
            self.optimiser + other.optimiser,
            self.activations + other.activations,
            self.rows + other.rows,
            max(self.pos, other.pos),
        )

    def __str__(self) -> str:
        parts = ", ".join(
            f"{name} {_in_words(getattr(self, name))}" for name in ("base", "adapter", "optimiser", "activations")
        )
        return f"{parts} ({self.rows} x {self.pos} tokens): {_in_words(self.total)}"

    def check(self, available: int, where: str) -> None:
        """Raise AlignerProbeError where it surely does not fit."""
        if self.total - (1 - SURELY) * self.activations > available:
            raise AlignerProbeError(
                f"training takes about {_in_words(self.total)} of memory ({self}) and {where} has "
                f"{_in_words(available)}; take a smaller micro_batch_size or max_length, checkpoint_activations=True "
                "(--checkpoint-activations), or the base in bfloat16 (--dtype bfloat16)"
            )


def memory_of(
    base: BaseSizes,
    *,
    rows: int,
    pos: int,
    n_parameters: int,
    start_layer: int = 0,
    itemsize: int = 4,
    extra: int = 0,
    checkpoint: bool = False,
) -> MemoryEstimate:
    """The estimate from sizes alone: `n_parameters` trained numbers of `itemsize` bytes from `start_layer` on.

    `extra` numbers a token and layer are kept for the adapter's own gradients.
    """
    layer, n_layers = base.kept_by_a_layer(pos, extra), base.n_layers - start_layer
    if checkpoint:
        inputs = n_layers * base.itemsize * base.d_model
        peak = inputs + max(base.head(), layer + base.room_of_a_layer(pos))
    else:
        peak = n_layers * layer + max(base.head(), base.room_of_a_layer(pos))
    numbers = itemsize * n_parameters
    return MemoryEstimate(
        base=base.itemsize * base.n_parameters,
        adapter=3 * numbers,  # as trained, as at the start, as at best
        optimiser=7 * numbers,  # gradient, two moments; the monitor's copies and the optimiser's own room
        activations=rows * pos * peak,
        rows=rows,
        pos=pos,
    )


def estimate_memory(
    adapter: Adapter, recipe: Recipe, pos: int, *, preference: bool = False, checkpoint: bool = False
) -> MemoryEstimate:
    """The estimate for an adapter on its model; `pos` is the longest sequence. A preference is two sequences."""
    base, method = BaseSizes.of(adapter.model), adapter.method
    if method == "prefix_tuning":  # reads the scores, so they are written out
        base = replace(base, pattern=_pattern_bytes(adapter.model, base.itemsize))
    n_tokens = getattr(adapter.config, "n_tokens", 1)
    heads = base.n_heads * base.d_head
    extra = {
        "lora": base.d_model,  # the input of the adapted projections
        "full": 4 * base.d_model + base.d_mlp,  # the input of every projection
        "prefix_tuning": 2 * heads,
    }.get(method, 2 * heads if n_tokens > 1 and method != "prompt_tuning" else 0)
    return memory_of(
        base,
        rows=recipe.rows_at_once * (2 if preference else 1),
        pos=pos + (n_tokens if method == "prompt_tuning" else 0),
        n_parameters=adapter.n_parameters,
        start_layer=adapter.layers.start,
        itemsize=next(adapter.parameters()).element_size(),
        extra=extra,
        checkpoint=checkpoint,
    )


def _pattern_bytes(model: TransformerBridge, itemsize: int) -> int:
    """Of a pattern that is written out: its softmax is taken in float32, but where query and key come fused."""
    return itemsize if family_of(architecture_of(model)).query != "hook_rot_q" else 4 + itemsize % 4


def capacity(model: TransformerBridge) -> tuple[int, str]:
    """Bytes of the device a model is on, and its name in words."""
    device = device_of(model)
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory, torch.cuda.get_device_name(device)
    return _ram(), "this machine"


def _ram() -> int:
    """Bytes of RAM that this process may use: the machine's, or its control group's limit."""
    sizes = []
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemTotal:"):
            sizes.append(1024 * int(line.split()[1]))
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        sizes += [int(line) for line in _lines(name) if line.strip().isdigit()]
    return min(sizes, default=2**62)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def _in_words(n_bytes: int) -> str:
    return f"{n_bytes / GB:.1f} GB" if n_bytes >= GB / 10 else f"{n_bytes / 1e6:.1f} MB"
