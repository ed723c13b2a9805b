"""Prompt tuning (arXiv 2104.08691): trained embeddings before the user's tokens. The paper's negative result.

The model sees n_tokens more positions; the user gets logits for the user's positions only. Positions shift by n_tokens.
Names in a cache do not change, but what is cached has the prompt's positions in front.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, AdapterConfig, HookFunction, require


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(AdapterConfig):
    """`n_tokens` trained embeddings, drawn at the start from the base's own vocabulary."""

    n_tokens: int = 10

    def __post_init__(self) -> None:
        require(self.n_tokens >= 1, f"n_tokens {self.n_tokens}; expected 1 or more")


class PromptTuning(Adapter):
    """PromptTuning(model, n_tokens=10, seed=0).

    Raises AlignerProbeError for options that do not fit. It does not stack: another adapter's layers would see
    positions that are not the user's.
    """

    method = "prompt_tuning"
    stacks = False
    config: PromptTuningConfig

    def __init__(
        self, model: TransformerBridge, n_tokens: int = 10, seed: int = 0, *, dtype: torch.dtype = torch.float32
    ):
        super().__init__(model, PromptTuningConfig(n_tokens=n_tokens, seed=seed))
        self.n_positions = n_tokens
        vocabulary = model.original_model.get_input_embeddings().weight
        picks = torch.randint(len(vocabulary), (n_tokens,), generator=self.generator())
        self.prompt = nn.Parameter(vocabulary[picks.to(vocabulary.device)].detach().to(dtype).clone())

    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        # The length of the sequence is settled before the first hook point, so this method works on the model's call.
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

    def _prepend(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        kwargs = dict(kwargs)
        ids = kwargs.pop("input_ids", None)
        if args:
            ids, args = args[0], args[1:]
        require(ids is not None, "prompt tuning needs token ids; got embeddings")
        n = self.config.n_tokens
        mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
        if mask is not None:
            kwargs["attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], dim=1)
        if _cached(kwargs) > 0:
            # The prompt is in the cache already.
            kwargs["input_ids"] = ids
            if positions is not None:
                kwargs["position_ids"] = positions + n
            return args, kwargs
        embedded = module.get_input_embeddings()(ids)
        prompt = self.prompt.to(embedded.dtype).expand(len(ids), -1, -1)
        kwargs["inputs_embeds"] = torch.cat([prompt, embedded], dim=1)
        if positions is not None:
            first = torch.arange(n, device=positions.device).expand(len(positions), -1)
            kwargs["position_ids"] = torch.cat([first, positions + n], dim=1)
        return args, kwargs

    def _cut(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        embedded = kwargs.get("inputs_embeds")
        if embedded is not None:
            # Counted from the end, since the caller may have asked for the last logits only (logits_to_keep).
            output.logits = output.logits[:, -(embedded.shape[1] - self.config.n_tokens) :]
        return output


def _cached(kwargs: dict[str, Any]) -> int:
    """Positions in the key-value cache that a call is given."""
    cache = kwargs.get("past_key_values")
    if cache is None:
        return 0
    return int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else int(cache[0][0].shape[-2])
