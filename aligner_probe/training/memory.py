"""How much memory a training step takes, estimated from sizes before anything is computed.

    print(estimate_memory(adapter, recipe, pos=512))
    base 13.5 GB, adapter 0.0 GB, optimiser 0.0 GB, activations 2.2 GB (4 x 512 tokens): 15.7 GB

The base model is frozen, so its linear layers keep nothing for the backward pass. From the adapter's first layer on,
each layer keeps for each token: the input of each norm (in float32), also of norms of queries and keys; the query, key,
value and head outputs of the attention kernel, and the attention pattern where it is written to memory; and what the
MLP's activation function and product need. The peak also has the logits of the positions that predict a label, their
log-softmax and their gradients. How many temporary tensors there are was counted with torch 2.13; tests compare the
estimate with the peak that the allocator reports.

The projections of a quantised base take the bytes of their packed values and scales. They are unpacked one at a time
while they are used. From the adapter's first layer on, int8 (torchao 0.18) keeps each of them unpacked for the backward
pass, so there it saves memory only with checkpointed activations; nf4 (bitsandbytes) unpacks them once more.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.capped import BYTES_A_SCORE, scores_at_once
from aligner_probe.errors import AlignerProbeError
from aligner_probe.families import family_of
from aligner_probe.hooks import AttentionShape, mlp_width
from aligner_probe.models import (
    architecture_of,
    base_parameters,
    device_of,
    dtype_of,
    n_base_parameters,
    quantization_in,
)
from aligner_probe.packed import bytes_of, is_packed, numel_of
from aligner_probe.training.recipe import Recipe

#: The estimate of the activations can be up to 1 / SURELY times too high, in families that write out their attention.
SURELY = 0.6
GB = 1e9


@dataclass(frozen=True)
class BaseSizes:
    """The sizes of a base model that the memory depends on.

    `itemsize` is the number of bytes of one parameter or activation. `pattern` is the number of bytes of one entry of
    an attention pattern, 0 where a fused kernel keeps no pattern. `mlp_kept` is how many tensors of size d_mlp the MLP
    keeps, and `norms` how many norms a layer has. `d_normed` is how many values of queries and keys go through norms.
    `scores_at_once` is how many capped scores are written out at a time, 0 where no scores are capped or all are
    written out together.

    For a quantised base, `n_bytes` are the bytes of all its weights as they are stored (None: `itemsize` each),
    `unpacked` is the number of bytes of its largest projection unpacked, and `unpacked_kept` the bytes that a layer
    keeps of unpacked projections for the backward pass.
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
    d_normed: int = 0
    scores_at_once: int = 0
    n_bytes: int | None = None
    unpacked: int = 0
    unpacked_kept: int = 0

    @classmethod
    def of(cls, model: TransformerBridge) -> "BaseSizes":
        shape, cfg = AttentionShape.of(model), model.cfg
        gated = bool(getattr(cfg, "gated_mlp", False))
        written_out = str(getattr(cfg, "act_fn", "")) in ("gelu_new", "gelu_fast")
        itemsize = dtype_of(model).itemsize
        attention: Any = model.blocks[0].attn
        fused = bool(family_of(architecture_of(model)).fast_components)
        capped = fused and getattr(attention.original_component, "attn_logit_softcapping", None) is not None
        parameters = {id(p): p for _, _, p in base_parameters(model)}.values()
        projections = [itemsize * numel_of(p) for p in parameters if is_packed(p)]
        kept = sum(projections) // shape.n_layers if quantization_in(model) == "int8" else 0
        return cls(
            d_model=shape.d_model,
            n_layers=shape.n_layers,
            n_heads=shape.n_heads,
            d_head=shape.d_head,
            d_mlp=mlp_width(model),
            d_vocab=cfg.d_vocab,
            n_parameters=n_base_parameters(model),
            itemsize=itemsize,
            pattern=0 if fused else _pattern_bytes(model, itemsize),
            mlp_kept=3 if gated else 4 if written_out else 1,
            norms=sum(name.startswith("ln") for name in model.blocks[0].submodules),
            d_normed=shape.d_head * (shape.n_heads + shape.n_kv_heads) if "q_norm" in attention.submodules else 0,
            scores_at_once=scores_at_once(device_of(model)) if capped else 0,
            n_bytes=sum(map(bytes_of, parameters)) if projections else None,
            unpacked=max(projections, default=0),
            unpacked_kept=kept,
        )

    def kept_by_a_layer(self, pos: int, extra: int) -> int:
        """Bytes a token that one layer keeps for the backward pass, with `extra` values for the adapter."""
        values = 4 * self.n_heads * self.d_head + self.mlp_kept * self.d_mlp + extra
        normed = 4 * (self.norms * self.d_model + self.d_normed)
        return normed + self.itemsize * values + self.pattern * self.n_heads * pos

    def room_of_a_layer(self, pos: int) -> int:
        """Bytes a token of the largest temporaries in a layer's backward pass: gradients of its MLP and its heads."""
        scores = 4 * self.itemsize * self.n_heads * pos if self.pattern else 0
        return self.itemsize * (2 * self.d_mlp + 2 * self.n_heads * self.d_head) + scores

    def head(self) -> int:
        """Bytes a token of logits, their log-softmax and their gradients, at the peak."""
        return self.d_vocab * (12 + self.itemsize % 4) + 4 * self.d_model


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes by purpose; one forward pass has `rows` x `pos` tokens."""

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
        """The estimate for two trainings that share a base model and a batch."""
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
        """Raise AlignerProbeError where even a much smaller need would not fit into `available` bytes."""
        if self.total - (1 - SURELY) * self.activations > available:
            raise AlignerProbeError(
                f"training takes about {_in_words(self.total)} of memory ({self}) and {where} has "
                f"{_in_words(available)}; take a smaller micro_batch_size or max_length, checkpoint_activations=True "
                "(--checkpoint-activations), or the base in bfloat16 (--dtype bfloat16) or in four bits "
                "(--quantization nf4)"
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
    labels: int | None = None,
) -> MemoryEstimate:
    """The estimate from sizes alone: `n_parameters` trained parameters of `itemsize` bytes from `start_layer` on.

    `extra` is how many values a token and layer are kept for the gradients of the adapter's parameters. `labels` is how
    many positions of a row predict a label, and so have logits; None for all.
    """
    n_tokens, n_layers = rows * pos, base.n_layers - start_layer
    layer = n_tokens * base.kept_by_a_layer(pos, extra)
    head = rows * (pos if labels is None else min(labels, pos)) * base.head()
    scores = BYTES_A_SCORE * min(base.scores_at_once, n_tokens * pos * base.n_heads)
    room = max(n_tokens * base.room_of_a_layer(pos), scores)  # of the MLP, and then of attention
    if checkpoint:
        peak = n_tokens * n_layers * base.itemsize * base.d_model + max(head, layer + room)
    else:
        peak = n_layers * layer + max(head, room)
    peak += base.unpacked + base.unpacked_kept * (1 if checkpoint else n_layers)
    trained = itemsize * n_parameters
    return MemoryEstimate(
        base=base.itemsize * base.n_parameters if base.n_bytes is None else base.n_bytes,
        adapter=3 * trained,  # the current, the initial and the best values
        optimiser=7 * trained,  # gradient, two moments, the monitor's copies, and temporaries of the optimiser
        activations=peak,
        rows=rows,
        pos=pos,
    )


def estimate_memory(
    adapter: Adapter,
    recipe: Recipe,
    pos: int,
    *,
    preference: bool = False,
    checkpoint: bool = False,
    labels: int | None = None,
) -> MemoryEstimate:
    """The estimate for an adapter on its base model.

    Args:
        adapter: the adapter; its class says what its own gradients need (`Adapter.activations_per_token`,
            `Adapter.reads_scores`).
        recipe: how it is trained; its micro-batch is what one forward pass has.
        pos: tokens of the longest sequence.
        preference: whether an example has two sequences, the chosen and the rejected one.
        checkpoint: whether activations are computed twice rather than kept.
        labels: the most labels of a sequence; None where all its tokens are labels.
    """
    base = BaseSizes.of(adapter.model)
    if adapter.reads_scores:  # so they are written to memory
        base = replace(base, pattern=_pattern_bytes(adapter.model, base.itemsize), scores_at_once=0)
    return memory_of(
        base,
        rows=recipe.rows_at_once * (2 if preference else 1),
        pos=pos + adapter.n_positions,
        n_parameters=adapter.n_parameters,
        start_layer=adapter.layers.start,
        itemsize=next(adapter.parameters()).element_size(),
        extra=adapter.activations_per_token(),
        checkpoint=checkpoint,
        labels=labels,
    )


def _pattern_bytes(model: TransformerBridge, itemsize: int) -> int:
    """Bytes of each entry of a pattern that is written out; in most families its softmax is taken in float32."""
    return 4 + itemsize % 4 if family_of(architecture_of(model)).softmax_in_float32 else itemsize


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
