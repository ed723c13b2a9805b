"""Prefix tuning (arXiv 2101.00190): trained keys and values that each layer attends to beside those of the tokens.

Unlike Aligner's prefix, they share one softmax with the keys of the tokens. The trained keys get no rotary embedding,
and the user's positions start at 0. One softmax over both kinds of keys is the weighted mean of the attention to the
prefix and the attention to the tokens, so nothing has to be added to the key-value cache. The weight w of the prefix is
its share of the summed exponentials of the scores:

    w = sum exp(prefix scores) / (sum exp(prefix scores) + sum exp(own scores));   z = (1 - w) z + w prefix attention

P-tuning v2 (arXiv 2110.07602) is this method as it is by default: keys and values of every layer are the parameters.
The paper of prefix tuning trains them through a network instead, with one embedding for each token (`reparametrise`):

    keys and values of all layers = W2 tanh(W1 embedding + b1) + b2

The network is only for training. A saved adapter has the keys and values that it gives, and no network.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import LayeredConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.hooks import score_scale

#: Standard deviation of the initial keys and values, where none is given.
SPREAD = 0.02


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(LayeredConfig):
    """Options of PrefixTuning."""

    n_tokens: int = field(default=10, metadata={"help": "trained keys and values of each layer"})
    spread: float = field(default=SPREAD, metadata={"help": "standard deviation of the initial keys and values"})
    reparametrise: int | None = field(
        default=None,
        metadata={
            "help": "train keys and values through a network with so many neurons (512 in the paper); the adapter is "
            "saved without it"
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.n_tokens >= 1, f"n_tokens {self.n_tokens}; expected 1 or more")
        require(self.spread >= 0, f"spread {self.spread}; expected 0 or more")
        hidden = self.reparametrise
        require(hidden is None or hidden >= 1, f"reparametrise {hidden}; expected 1 or more neurons, or None")
        require(
            hidden is None or self.spread == SPREAD,
            f"spread {self.spread} with reparametrise {hidden}: the network decides how keys and values begin; leave "
            "one of the two out",
        )


class PrefixEncoder(nn.Module):
    """Keys and values of all layers from an embedding of each token, as PEFT's PrefixEncoder with its projection.

    Embeddings are drawn from the standard normal distribution, and weights and biases as torch's Linear draws them.
    Embeddings are as wide as the keys of a layer. W2 and b2 are kept by layer, so that a layer computes its own part.
    """

    def __init__(self, size: tuple[int, int, int, int], hidden: int, generator: torch.Generator):
        super().__init__()
        n_layers, n_tokens, *self.heads = size
        width = math.prod(self.heads)

        def uniform(*shape: int, d_in: int) -> nn.Parameter:
            return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(d_in))

        self.embedding = nn.Parameter(torch.randn(n_tokens, width, generator=generator))
        self.W1, self.b1 = uniform(hidden, width, d_in=width), uniform(hidden, d_in=width)
        self.W2 = nn.ParameterList(uniform(2 * width, hidden, d_in=hidden) for _ in range(n_layers))
        self.b2 = nn.ParameterList(uniform(2 * width, d_in=hidden) for _ in range(n_layers))

    def forward(self, index: int) -> Float[Tensor, "two n_tokens n_kv_heads d_head"]:
        """The keys (first) and the values (second) of the adapted layer with this index."""
        neurons = torch.tanh(F.linear(self.embedding, self.W1, self.b1))
        both = F.linear(neurons, self.W2[index], self.b2[index])
        return both.unflatten(1, (2, *self.heads)).transpose(0, 1)


@register_adapter("prefix_tuning")
@accepts(model=a_model)
class PrefixTuning(Adapter):
    """Trained keys and values that each layer attends to beside those of the tokens (arXiv 2101.00190).

    Without `reparametrise` this is what P-tuning v2 trains (arXiv 2110.07602).

    Args:
        model: the base model.
        n_tokens: trained keys and values of each layer (PEFT's num_virtual_tokens).
        start_layer: index of the first adapted layer; 0 adapts all layers.
        seed: start seed, which draws the initial keys and values.
        spread: standard deviation of the initial keys and values.
        reparametrise: None trains keys and values themselves. A number trains them through a network with so many
            neurons, as PEFT does with prefix_projection (its encoder_hidden_size). `folded` is the same adapter without
            the network, and it is what `save_adapter` writes.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit.
    """

    label = "prefix tuning"
    reads_scores = True
    learning_rates = (0.015, 0.05, 0.15)
    #: Of the network: the published 5e-5 at the width of GPT-2 medium, 1024, brought to width 128, is the lowest.
    encoder_rates: ClassVar[tuple[float, float, float]] = (0.0004, 0.0012, 0.004)
    config: PrefixTuningConfig

    def __init__(
        self,
        model: TransformerBridge,
        n_tokens: int = 10,
        start_layer: int = 0,
        seed: int = 0,
        *,
        spread: float = SPREAD,
        reparametrise: int | None = None,
        dtype: torch.dtype = torch.float32,
    ):
        config = PrefixTuningConfig(
            n_tokens=n_tokens, start_layer=start_layer, seed=seed, spread=spread, reparametrise=reparametrise
        )
        super().__init__(model, config)
        size = (len(self.layers), n_tokens, self.shape.n_kv_heads, self.shape.d_head)
        generator = self.generator()
        if reparametrise is None:
            self.keys, self.values = (
                nn.Parameter((spread * torch.randn(size, generator=generator)).to(self.device, dtype)) for _ in "kv"
            )
        else:
            self.encoder = PrefixEncoder(size, reparametrise, generator).to(self.device, dtype)
        self._seen: dict[int, dict[str, Tensor]] = {}

    @classmethod
    def rates_for(cls, options: Mapping[str, Any]) -> tuple[float, float, float]:
        return cls.learning_rates if options.get("reparametrise") is None else cls.encoder_rates

    def keys_and_values(self, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer, each (n_tokens, n_kv_heads, d_head)."""
        index = layer - self.config.start_layer
        if self.config.reparametrise is None:
            return self.keys[index], self.values[index]
        keys, values = self.encoder(index)
        return keys, values

    @torch.no_grad()
    def folded(self) -> "PrefixTuning":
        """The adapter without the network of `reparametrise`: itself, or a new one with the keys and values."""
        config = self.config
        if config.reparametrise is None:
            return self
        dtype = self.encoder.embedding.dtype
        plain = PrefixTuning(self.model, config.n_tokens, config.start_layer, config.seed, dtype=dtype)
        plain.load_state_dict(self._given_by({}))
        if self.start is not None:
            plain.start = self._given_by({name.removeprefix("encoder."): one for name, one in self.start.items()})
        plain.provenance, plain.loaded_from = self.provenance, self.loaded_from
        return plain

    def _given_by(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """The keys and values that the network gives; with these parameters where they differ from its own."""
        layers = range(len(self.layers))
        both = torch.stack([functional_call(self.encoder, parameters, (index,)) for index in layers])
        return {"keys": both[:, 0].contiguous(), "values": both[:, 1].contiguous()}

    def activations_per_token(self) -> int:
        """The query and the head outputs."""
        return 2 * self.shape.n_heads * self.shape.d_head

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        for layer in self.layers:
            attention = f"blocks.{layer}.attn"
            for name in self.family.query_hooks:
                yield f"{attention}.{name}", self._reader(layer, name)
            yield f"{attention}.hook_attn_scores", self._scores_reader(layer)
            yield f"{attention}.hook_z", self._mixer(layer)

    def _reader(self, layer: int, name: str) -> HookFunction:
        def read(tensor: Tensor, hook: HookPoint) -> None:
            self._seen.setdefault(layer, {})[name] = tensor

        return read

    def _scores_reader(self, layer: int) -> HookFunction:
        def read(scores: Float[Tensor, "batch n_heads pos keys"], hook: HookPoint) -> None:
            # A position whose keys are all masked (padding) has no finite score; its output is not used.
            lowest = torch.finfo(scores.dtype).min
            self._seen.setdefault(layer, {})["own"] = scores.clamp(min=lowest).float().logsumexp(-1)

        return read

    def _mixer(self, layer: int) -> HookFunction:
        groups = self.shape.n_heads // self.shape.n_kv_heads

        def mix(
            z: Float[Tensor, "batch pos n_heads d_head"], hook: HookPoint
        ) -> Float[Tensor, "batch pos n_heads d_head"]:
            seen = self._seen.pop(layer)
            q = self.family.final_query(seen)
            k, v = (t.to(q.dtype).repeat_interleave(groups, dim=1) for t in self.keys_and_values(layer))
            scores = torch.einsum("bphd,nhd->bhpn", q, k) * score_scale(self.model, layer)
            blocks: Any = self.model.blocks
            cap = getattr(blocks[layer].attn.original_component, "attn_logit_softcapping", None)
            if cap is not None:  # Gemma 2 caps every score
                scores = cap * torch.tanh(scores / cap)
            scores = scores.float()
            weight = torch.sigmoid(scores.logsumexp(-1) - seen["own"]).to(z.dtype).transpose(1, 2).unsqueeze(-1)
            mixed = torch.einsum("bhpn,nhd->bphd", scores.softmax(-1).to(z.dtype), v)
            return z + weight * (mixed - z)

        return mix
