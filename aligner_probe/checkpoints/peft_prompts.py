"""PEFT's folders of prefix tuning, prompt tuning and P-tuning, loaded as PrefixTuning and PromptTuning.

Such a folder holds one tensor, `prompt_embeddings`:

- PROMPT_TUNING and P_TUNING: (n_tokens, d_model), embeddings before the user's tokens. P-tuning's encoder is not
  stored: PEFT saves what the encoder gives, and computes with that.
- PREFIX_TUNING, with or without a projection in training: (n_tokens, n_layers * 2 * n_kv_heads * d_head), keys and
  values of every layer in this order, which PEFT puts into the key-value cache.

PEFT's prefix takes up the positions 0 to n_tokens - 1, so the user's tokens begin at position n_tokens, whereas they
begin at 0 in PrefixTuning. PEFT's prefix keys get no rotary embedding, so only the angle of the user's queries differs:
a query at position i + n_tokens against a key k is a query at position i against k turned back by n_tokens positions.
Turning every key back once makes the two exactly the same. There is no such turn where positions are added to the
embeddings (GPT-2), where the angles depend on the length of the text, and where a window of attention hides the prefix.
"""

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter, PrefixTuning, PromptTuning
from aligner_probe.checkpoints import native
from aligner_probe.checkpoints.containers import read_tensors
from aligner_probe.checkpoints.peft_lora import weights_of
from aligner_probe.checkpoints.prefix import DTYPES, dtype_name
from aligner_probe.errors import CheckpointError
from aligner_probe.models import architecture_of, config_of_base

METHODS = {"PREFIX_TUNING": PrefixTuning, "PROMPT_TUNING": PromptTuning, "P_TUNING": PromptTuning}
TENSOR = "prompt_embeddings"
#: Keys of adapter_config.json with any value: names, options of the training, and sizes, which are checked below.
FREE = {
    *("peft_type", "task_type", "peft_version", "base_model_name_or_path", "revision", "auto_mapping"),
    *("inference_mode", "num_virtual_tokens", "token_dim", "num_attention_heads", "num_layers"),
    *("num_transformer_submodules", "prefix_projection", "init_weights", "runtime_config"),
    *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
    *("encoder_hidden_size", "encoder_dropout", "encoder_num_layers", "encoder_reparameterization_type"),
}
#: Kinds of rotary position embedding whose angles depend on the position alone.
STEADY = ("default", "linear", "llama3", "yarn")


def recognises(config: dict[str, Any] | None) -> bool:
    return config is not None and config.get("peft_type") in METHODS


def load(folder: Path, config: dict[str, Any], model: TransformerBridge) -> Adapter:
    """Load the adapter of a folder onto a model, in the precision in which it is stored.

    Raises CheckpointError if the folder is damaged or holds more than these methods have, if its sizes are not those of
    the model, or if PrefixTuning cannot compute exactly what PEFT computes on this model.
    """
    kind = config["peft_type"]
    for key, value in config.items():
        if key not in FREE and value not in (None, False, [], {}):
            raise CheckpointError(
                folder, f"is PEFT {kind} with {key} {json.dumps(value)[:80]}, which has no equal here"
            )
    if config.get("num_transformer_submodules") not in (None, 1) or config.get("task_type") not in (None, "CAUSAL_LM"):
        raise CheckpointError(
            folder, f"is PEFT {kind} for task_type {config.get('task_type')}; expected CAUSAL_LM, of one decoder"
        )
    tensors = read_tensors(weights_of(folder))
    if set(tensors) != {TENSOR}:
        raise CheckpointError(folder, f"holds {', '.join(sorted(tensors)[:3])}; PEFT {kind} expects {TENSOR} alone")
    stored = tensors[TENSOR]
    if stored.dim() != 2 or stored.dtype not in DTYPES or not stored.numel():
        raise CheckpointError(
            folder, f"has {TENSOR} {tuple(stored.shape)} in {dtype_name(stored.dtype)}; expected two axes of floats"
        )
    if not bool(torch.isfinite(stored).all()):
        raise CheckpointError(folder, f"has NaN or infinite values in {TENSOR}; take an earlier checkpoint")
    said = config.get("num_virtual_tokens")
    if said not in (None, len(stored)):
        raise CheckpointError(
            folder,
            f"has {len(stored)} tokens, but {native.CONFIG} says num_virtual_tokens {said!r}; one of the two "
            "files is from another run",
        )
    return _prefix(folder, config, stored, model) if kind == "PREFIX_TUNING" else _prompt(folder, kind, stored, model)


def _prompt(folder: Path, kind: str, stored: Float[Tensor, "n_tokens width"], model: TransformerBridge) -> Adapter:
    if stored.shape[1] != model.cfg.d_model:
        raise CheckpointError(
            folder,
            f"is PEFT {kind} with embeddings of {stored.shape[1]}, and this model's are {model.cfg.d_model} "
            "wide; expected an adapter of a base of these sizes",
        )
    adapter = PromptTuning(model, n_tokens=len(stored), dtype=stored.dtype)
    adapter.load_state_dict({"prompt": stored})
    return adapter


def _prefix(
    folder: Path, config: dict[str, Any], stored: Float[Tensor, "n_tokens width"], model: TransformerBridge
) -> Adapter:
    adapter = PrefixTuning(model, n_tokens=len(stored), dtype=stored.dtype)
    shape = adapter.shape
    sizes = {
        "num_layers": shape.n_layers,
        "num_attention_heads": shape.n_kv_heads,
        "token_dim": shape.n_kv_heads * shape.d_head,
    }
    wrong = [f"{key} {config[key]}, here {size}" for key, size in sizes.items() if config.get(key, size) != size]
    if stored.shape[1] != 2 * shape.n_layers * shape.n_kv_heads * shape.d_head:
        wrong.append(f"{stored.shape[1]} values a token, here {2 * shape.n_layers * shape.n_kv_heads * shape.d_head}")
    if wrong:
        raise CheckpointError(
            folder,
            f"is PEFT PREFIX_TUNING of other sizes than this model's keys and values: {'; '.join(wrong)}; "
            "expected an adapter of a base of these sizes",
        )
    halves = stored.unflatten(1, (shape.n_layers, 2, shape.n_kv_heads, shape.d_head))
    keys, values = (halves[:, :, half].transpose(0, 1) for half in (0, 1))
    adapter.load_state_dict({"keys": _turned_back(folder, keys, model), "values": values})
    return adapter


def _turned_back(
    folder: Path, keys: Float[Tensor, "n_layers n_tokens n_kv_heads d_head"], model: TransformerBridge
) -> Float[Tensor, "n_layers n_tokens n_kv_heads d_head"]:
    """The keys after a rotary position embedding of minus n_tokens positions, computed in float64."""
    base, n_tokens = config_of_base(model), keys.shape[1]
    frequencies = [
        buffer for name, buffer in model.original_model.named_buffers() if name.rsplit(".", 1)[-1] == "inv_freq"
    ]
    if not frequencies:
        raise _unequal(folder, model, "its positions are added to the embeddings, and PEFT's prefix shifts them")
    rope = getattr(base, "rope_parameters", None) or getattr(base, "rope_scaling", None) or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else "default"
    if kind not in STEADY or any(not torch.equal(one, frequencies[0]) for one in frequencies):
        raise _unequal(folder, model, f"its rotary embedding ({kind}) is not the same for all lengths and layers")
    window = getattr(base, "sliding_window", None)
    kinds = getattr(base, "layer_types", None) or ()
    if window and (not kinds or "sliding_attention" in kinds) and window < base.max_position_embeddings + n_tokens:
        raise _unequal(folder, model, f"its window of {window} positions hides PEFT's prefix from later tokens")
    angles = n_tokens * frequencies[0].double().cpu()
    cos, sin = (torch.cat([of(angles)] * 2) for of in (torch.cos, torch.sin))
    turned, passed = keys.double()[..., : len(cos)], keys.double()[..., len(cos) :]
    low, high = turned.chunk(2, dim=-1)
    # By minus the angle: cos is even, sin is odd.
    return torch.cat([turned * cos - torch.cat([-high, low], dim=-1) * sin, passed], dim=-1).to(keys.dtype)


def _unequal(folder: Path, model: TransformerBridge, why: str) -> CheckpointError:
    return CheckpointError(
        folder,
        f"is PEFT PREFIX_TUNING, which this {architecture_of(model)} cannot take exactly: {why}; use it in PEFT, or "
        "train ap.PrefixTuning here",
    )
