"""Prompt tuning (arXiv 2104.08691): trained embeddings before the user's tokens. The Aligner paper's negative result.

The model computes n_tokens more positions, and the positions of the user's tokens are shifted by n_tokens. The user
gets the logits of the user's positions alone. In a batch that is padded on the left, the trained embeddings stand
between the padding of each row and its first token, as they do where the row is alone: a sliding window counts padding,
too, and would hide embeddings before it. Activations in a cache of TransformerLens have the positions of the trained
embeddings in them, in front of each row's tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, HookFunction
from aligner_probe.adapters.config import AdapterConfig, require
from aligner_probe.adapters.registry import register_adapter
from aligner_probe.arguments import a_model, accepts


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(AdapterConfig):
    """Options of PromptTuning."""

    n_tokens: int = field(default=10, metadata={"help": "trained embeddings before the user's tokens"})

    def __post_init__(self) -> None:
        require(self.n_tokens >= 1, f"n_tokens {self.n_tokens}; expected 1 or more")


@register_adapter("prompt_tuning")
@accepts(model=a_model)
class PromptTuning(Adapter):
    """Trained embeddings before the user's tokens (arXiv 2104.08691).

    It does not stack: another adapter would also change the positions that are not the user's.

    Args:
        model: the base model.
        n_tokens: trained embeddings (PEFT's num_virtual_tokens).
        seed: start seed, which draws the tokens of the base model's vocabulary whose embeddings are the initial values.
        dtype: data type of the parameters.

    Raises:
        AlignerProbeError: for options that do not fit.
    """

    label = "prompt tuning"
    stacks = False
    learning_rates = (0.015, 0.05, 0.15)
    #: What the paper trains with, beside a length of 100 (`n_tokens`, the arm "prompt-tuning-100").
    published_recipe: ClassVar = {
        "sft": {
            "lr": 0.3,
            "weight_decay": 1e-5,
            "batch_size": 32,
            "steps": 30_000,
            "warmup": 0.0,
            "warmup_counts": "steps",
            "precision": "float32",
            "replacement": False,
            "seed": 0,
        }
    }
    published_notes: ClassVar = {
        "sft": "the recipe is that of prompt tuning's paper, which trains 100 tokens (--n-tokens 100) by Adafactor; "
        "this is AdamW, and the rate of .3 was chosen for T5: on another base model it may be far too high",
        "preference": "its paper trains no preferences, so the recipe is that of Aligner's authors",
    }
    config: PromptTuningConfig

    def __init__(
        self, model: TransformerBridge, n_tokens: int = 10, seed: int = 0, *, dtype: torch.dtype = torch.float32
    ):
        super().__init__(model, PromptTuningConfig(n_tokens=n_tokens, seed=seed))
        self.n_positions = n_tokens
        whole: Any = model.original_model
        vocabulary = whole.get_input_embeddings().weight
        picks = torch.randint(len(vocabulary), (n_tokens,), generator=self.generator())
        self.prompt = nn.Parameter(vocabulary[picks.to(vocabulary.device)].detach().to(dtype).clone())

    def activations_per_token(self) -> int:
        return 0

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        # The length of the sequence is fixed before the first hook point, so this method changes the model's call.
        yield from ()

    @contextmanager
    def _installed(self) -> Iterator[None]:
        whole = self.model.original_model
        handles = [
            whole.register_forward_pre_hook(self._prepend, with_kwargs=True),
            whole.register_forward_hook(self._cut, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _prepend(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        kwargs = dict(kwargs)
        ids = kwargs.pop("input_ids", None)
        if args:
            ids, args = args[0], args[1:]
        require(ids is not None, "prompt tuning needs token ids; got embeddings")
        n = self.config.n_tokens
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        first = _first_tokens(mask, len(ids))
        if mask is not None:
            kwargs["attention_mask"] = _inserted(mask.new_ones(n), mask.expand(len(ids), -1), first)
        if _cached(kwargs) > 0:
            # The keys and values of the trained embeddings are in the cache already.
            kwargs["input_ids"] = ids
            if positions is not None:
                kwargs["position_ids"] = positions + n
            return args, kwargs
        embedded = module.get_input_embeddings()(ids)
        kwargs["inputs_embeds"] = _inserted(self.prompt.to(embedded.dtype), embedded, first)
        if positions is not None:
            own = torch.arange(n, device=positions.device)
            kwargs["position_ids"] = _inserted(own, positions.expand(len(ids), -1) + n, first)
        return args, kwargs

    def _cut(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        embedded = kwargs.get("inputs_embeds")
        if embedded is not None:
            # The user's positions are counted from the end, since the caller may have asked for the last logits only
            # (logits_to_keep). In a padded row, the positions that are cut off are padding and trained embeddings.
            output.logits = output.logits[:, -(embedded.shape[1] - self.config.n_tokens) :]
        return output


def _first_tokens(mask: Any, n_rows: int) -> Int[Tensor, "batch 1"] | None:
    """Where in each row the first token stands that the mask does not hide; None where this is at 0 in all rows."""
    if mask is None:
        return None
    shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
    require(
        isinstance(mask, Tensor) and mask.ndim == 2 and len(mask) in (1, n_rows),
        f"prompt tuning was given an attention mask of shape {shape} for {n_rows} rows; expected (batch, pos), with 1 "
        "for tokens and 0 for padding",
    )
    first = (mask != 0).long().argmax(1, keepdim=True).expand(n_rows, 1)
    return first if bool(first.any()) else None


def _inserted(
    prompt: Shaped[Tensor, "n_tokens ..."], rows: Shaped[Tensor, "batch pos ..."], first: Int[Tensor, "batch 1"] | None
) -> Shaped[Tensor, "batch n_tokens+pos ..."]:
    """Each row with the prompt before its position `first`, or in front of all where `first` is None."""
    n, length = len(prompt), rows.shape[1]
    if first is None:
        return torch.cat([prompt.expand(len(rows), *prompt.shape), rows], dim=1)
    pos = torch.arange(n + length, device=rows.device).expand(len(rows), -1)
    own = pos - torch.where(pos < first, 0, n)
    of_row = rows[torch.arange(len(rows), device=rows.device).unsqueeze(1), own.clamp(min=0)]
    of_prompt = prompt[(pos - first).clamp(0, n - 1)]
    is_prompt = (pos >= first) & (pos < first + n)
    return torch.where(is_prompt.view(*is_prompt.shape, *[1] * (rows.ndim - 2)), of_prompt, of_row)


def _cached(kwargs: dict[str, Any]) -> int:
    """Positions in the key-value cache that a call is given."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return 0
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else int(cache[0][0].shape[-2])
