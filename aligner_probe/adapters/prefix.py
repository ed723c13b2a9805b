"""Aligner and LLaMA-Adapter: each head also attends to prefix tokens, and adds the result times a gate to its output.

For layers l >= start_layer (arXiv 2312.05503, eq. 5 to 7; 2303.16199):

    k, v = P W_K, P W_V                       the layer's own frozen projections; no norm, no rotary
    a = softmax(q k^T / sqrt(d_head)) v       q is the layer's own query after rotary
    z = z + f(beta) a                         beta per head, zero at the start; f linear or tanh

Aligner has one P for all layers; LLaMA-Adapter has one for each layer. With one token the softmax is over one key and
equals 1, so the adapter adds one vector to each head, whatever the input. Then no query is read and no key computed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction, OfRows, RowParameters, default_start_layer
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.prefix_attention import add_prefix_attention, add_prefix_attention_by_row
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.hooks import project, score_scale
from aligner_probe.packed import unpacked


@dataclass(frozen=True, kw_only=True)
class PrefixConfig(LayeredConfig):
    """Options of Aligner and LLaMA-Adapter."""

    start_layer: int = field(
        default=0, metadata={"help": "index of the first adapted layer, from 0 (default: 2 on deep models)"}
    )
    n_tokens: int = field(default=1, metadata={"help": "prefix tokens"})
    gate_function: Literal["linear", "tanh"] = field(
        default="linear", metadata={"help": "what the gates pass through before they multiply"}
    )
    gate_per: Literal["head", "layer"] = field(default="head", metadata={"help": "one gate for each of these"})
    train: Literal["all", "gates", "tokens"] = field(
        default="all",
        metadata={
            "help": "a control arm: leave these as they start",
            "flag": "freeze",
            "values": {"tokens": "gates", "gates": "tokens"},
        },
    )
    initial_gate: float = field(
        default=0.0,
        metadata={
            "help": "initial value of every gate (default: 0; with --freeze gates, so much that the prefix adds 5 % of "
            "the norm of the residual stream)"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_tokens >= 1, f"n_tokens {self.n_tokens}; expected 1 or more")
        require(
            self.gate_function in ("linear", "tanh"), f"gate_function {self.gate_function!r}; expected linear or tanh"
        )
        require(self.gate_per in ("head", "layer"), f"gate_per {self.gate_per!r}; expected head or layer")
        require(self.train in ("all", "gates", "tokens"), f"train {self.train!r}; expected all, gates or tokens")
        require(
            self.train != "tokens" or self.initial_gate != 0,
            "train='tokens' with gates at zero trains nothing; set initial_gate, for instance 0.1",
        )


@dataclass(frozen=True, kw_only=True)
class LLaMAAdapterConfig(PrefixConfig):
    """As Aligner's, with ten tokens by default."""

    n_tokens: int = field(default=10, metadata={"help": "prefix tokens of each layer"})


class PrefixAdapter(Adapter):
    """What Aligner and LLaMA-Adapter have in common; `shared` says whether all layers have one prefix."""

    shared: ClassVar[bool]
    starts_above = True
    learning_rates = (0.03, 0.1, 0.3)
    start_options: ClassVar = frozenset({"seed", "train", "initial_gate"})
    export_instead = "export it to lit-llama, to native, or to peft where all heads of a layer share one gate"
    config: PrefixConfig

    def __init__(self, model: TransformerBridge, config: PrefixConfig, dtype: torch.dtype):
        super().__init__(model, config)
        device = next(model.original_model.parameters()).device
        n_prefixes = 1 if self.shared else len(self.layers)
        start = torch.randn(n_prefixes, config.n_tokens, self.shape.d_model, generator=self.generator())
        n_gates = self.shape.n_heads if config.gate_per == "head" else 1
        self.prefix = nn.Parameter(start.to(device, dtype), requires_grad=config.train != "gates")
        self.gates = nn.Parameter(
            torch.full((len(self.layers), n_gates), config.initial_gate, device=device, dtype=dtype),
            requires_grad=config.train != "tokens",
        )
        self._queries: dict[int, dict[str, Tensor]] = {}
        self._projected: dict[int, tuple[Tensor, Tensor, tuple[Tensor, Tensor]]] = {}

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            if self.config.n_tokens > 1:
                for name in self.family.query_hooks:
                    yield f"blocks.{layer}.attn.{name}", self._reader(layer, name)
            yield f"blocks.{layer}.attn.hook_z", self._adder(layer)

    def _reader(self, layer: int, name: str) -> HookFunction:
        def read(tensor: Tensor, hook: HookPoint) -> None:
            self._queries.setdefault(layer, {})[name] = tensor

        return read

    def _adder(self, layer: int) -> HookFunction:
        def add_constant(
            z: Float[Tensor, "batch pos n_heads d_head"], hook: HookPoint
        ) -> Float[Tensor, "batch pos n_heads d_head"]:
            return z + self._keys_and_values(layer)[1][0]

        def add_attention(
            z: Float[Tensor, "batch pos n_heads d_head"], hook: HookPoint
        ) -> Float[Tensor, "batch pos n_heads d_head"]:
            q = self.family.final_query(self._queries.pop(layer))
            return add_prefix_attention(z, q, *self._keys_and_values(layer))

        return add_constant if self.config.n_tokens == 1 else add_attention

    @classmethod
    def not_pooled(cls, options: Mapping[str, Any]) -> str:
        return ""

    def hook_functions_by_row(self, of_rows: OfRows) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            if self.config.n_tokens > 1:
                for name in self.family.query_hooks:
                    yield f"blocks.{layer}.attn.{name}", self._reader(layer, name)
            yield f"blocks.{layer}.attn.hook_z", self._adder_by_row(layer, of_rows)

    def _adder_by_row(self, layer: int, of_rows: OfRows) -> HookFunction:
        def add(
            z: Float[Tensor, "batch pos n_heads d_head"], hook: HookPoint
        ) -> Float[Tensor, "batch pos n_heads d_head"]:
            keys, values = of_rows().once(layer, lambda rows: self._project_by_row(layer, rows))
            if self.config.n_tokens == 1:
                return z + values
            return add_prefix_attention_by_row(z, self.family.final_query(self._queries.pop(layer)), keys, values)

        return add

    def _project_by_row(self, layer: int, rows: RowParameters) -> tuple[Tensor, Tensor]:
        """As `_project`, of the prefixes of all rows: each (rows, n_tokens, n_heads, d_head)."""
        index = layer - self.config.start_layer
        prefix, gates = rows.tensors["prefix"], rows.tensors["gates"][:, index, None, :, None]
        tokens = prefix[:, 0 if self.shared else index].flatten(0, 1)
        shape = (len(prefix), self.config.n_tokens)
        values = project(self.model, layer, "v", tokens).unflatten(0, shape)
        gates = torch.tanh(gates) if self.config.gate_function == "tanh" else gates
        values = values * gates.to(values.dtype)
        if self.config.n_tokens == 1:
            return values[:, :0], values
        keys = project(self.model, layer, "k", tokens).unflatten(0, shape)
        return keys * score_scale(self.model, layer), values

    def prefix_of(self, layer: int) -> Float[Tensor, "n_tokens d_model"]:
        """The tokens a layer attends to."""
        return self.prefix[0 if self.shared else layer - self.config.start_layer]

    def gate_of(self, layer: int) -> Float[Tensor, " n_gates"]:
        """A layer's gates after their function: what multiplies the prefix attention of each head."""
        gates = self.gates[layer - self.config.start_layer]
        return torch.tanh(gates) if self.config.gate_function == "tanh" else gates

    def gated_values(self, layer: int) -> Float[Tensor, "n_tokens n_heads d_head"]:
        """The tokens' values times the gates: scaling a few values is cheaper than scaling every output."""
        values = project(self.model, layer, "v", self.prefix_of(layer))
        return values * self.gate_of(layer).to(values.dtype)[:, None]

    @classmethod
    def depends_on_input(cls, options: Mapping[str, Any]) -> str:
        n_tokens = options.get("n_tokens", 1)
        if n_tokens == 1:
            return ""
        return (
            f"{cls.method} with {n_tokens} tokens cannot be merged or written as vectors: what it adds depends on the "
            f"input, and only with one token it does not; {cls.export_instead}"
        )

    def shifts(self) -> dict[int, Float[Tensor, " d_model"]]:
        """With one token, b = W_O concat_h(f(beta_h) W_V^h p) of each layer: the softmax over one key equals 1."""
        return {layer: self._shift(layer).cpu() for layer in self.layers}

    def _shift(self, layer: int) -> Float[Tensor, " d_model"]:
        values = project(self.model, layer, "v", self.prefix_of(layer), torch.float64)[0]
        heads = values * self.gate_of(layer).double()[:, None]
        blocks: Any = self.model.blocks
        output = blocks[layer].attn.o.original_component
        # GPT-2's Conv1D stores its weight transposed.
        weight = output.weight.T if type(output).__name__ == "Conv1D" else unpacked(output)
        return F.linear(heads.flatten(), weight.double())

    def activations_per_token(self) -> int:
        """The query and the head outputs, where there is more than one token to attend to."""
        return 2 * self.shape.n_heads * self.shape.d_head if self.config.n_tokens > 1 else 0

    def _keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """The scaled keys (none with one token) and the gated values of the prefix.

        Calls without gradients, as in generation, reuse them as long as the parameters do not change. A call with
        gradients always computes them again, since the prefix would otherwise stop training without a warning.
        """
        if torch.is_grad_enabled():
            return self._project(layer)
        prefix, gates = self.prefix_of(layer), self.gates[layer - self.config.start_layer]
        if layer in self._projected:
            old_prefix, old_gates, projected = self._projected[layer]
            if _is_same(prefix, old_prefix) and _is_same(gates, old_gates):
                return projected
        projected = self._project(layer)
        self._projected[layer] = (prefix.clone(), gates.clone(), projected)
        return projected

    def _project(self, layer: int) -> tuple[Tensor, Tensor]:
        values = self.gated_values(layer)
        if self.config.n_tokens == 1:
            return values[:0], values
        return project(self.model, layer, "k", self.prefix_of(layer)) * score_scale(self.model, layer), values


def _is_same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


@register_adapter("aligner")
@accepts(model=a_model)
class Aligner(PrefixAdapter):
    """One prefix for all layers, a gate a head (arXiv 2312.05503): n_tokens x d_model + adapted layers x n_heads.

    Args:
        model: the base model.
        n_tokens: prefix tokens.
        start_layer: index of the first adapted layer; None for the paper's 2.
        seed: start seed, which draws the initial prefix.
        gate_function: what the gates pass through, "linear" or "tanh".
        gate_per: "head" for a gate a head, "layer" for one gate a layer.
        train: "all", or one half alone: "gates" leaves the random prefix as it is, "tokens" leaves the gates at
            `initial_gate`, which must then not be 0.
        initial_gate: initial value of every gate.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit, and on a base model of few layers without `start_layer`.
    """

    label = "Aligner"
    shared = True

    def __init__(
        self,
        model: TransformerBridge,
        n_tokens: int = 1,
        start_layer: int | None = None,
        seed: int = 0,
        *,
        gate_function: Literal["linear", "tanh"] = "linear",
        gate_per: Literal["head", "layer"] = "head",
        train: Literal["all", "gates", "tokens"] = "all",
        initial_gate: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        config = PrefixConfig(
            n_tokens=n_tokens,
            start_layer=default_start_layer(model) if start_layer is None else start_layer,
            seed=seed,
            gate_function=gate_function,
            gate_per=gate_per,
            train=train,
            initial_gate=initial_gate,
        )
        super().__init__(model, config, dtype)


@register_adapter("llama_adapter")
@accepts(model=a_model)
class LLaMAAdapter(PrefixAdapter):
    """A prefix of its own for each layer, a gate a head (arXiv 2303.16199).

    Args:
        model: the base model.
        n_tokens: prefix tokens of each layer.
        start_layer: as in `Aligner`, and so are `seed`, `gate_function`, `gate_per`, `train`, `initial_gate` and
            `dtype`.

    Raises:
        AlignerProbeError: for options that do not fit, and on a base model of few layers without `start_layer`.
    """

    label = "LLaMA-Adapter"
    shared = False
    config: LLaMAAdapterConfig

    def __init__(
        self,
        model: TransformerBridge,
        n_tokens: int = 10,
        start_layer: int | None = None,
        seed: int = 0,
        *,
        gate_function: Literal["linear", "tanh"] = "linear",
        gate_per: Literal["head", "layer"] = "head",
        train: Literal["all", "gates", "tokens"] = "all",
        initial_gate: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ):
        config = LLaMAAdapterConfig(
            n_tokens=n_tokens,
            start_layer=default_start_layer(model) if start_layer is None else start_layer,
            seed=seed,
            gate_function=gate_function,
            gate_per=gate_per,
            train=train,
            initial_gate=initial_gate,
        )
        super().__init__(model, config, dtype)
