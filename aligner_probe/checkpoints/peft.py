"""PEFT's AdaptionPrompt (its name for LLaMA-Adapter): one scalar gate a layer, no tanh.

`base_model.model.model.layers.{l}.self_attn.adaption_gate` (1,) and `.adaption_prompt` (1, n_tokens, d_model), in a
folder whose `adapter_config.json` says `"peft_type": "ADAPTION_PROMPT"` (peft.tuners.adaption_prompt).
"""

import re
from typing import Any

from aligner_probe.checkpoints import naming
from aligner_probe.checkpoints.containers import StateDict
from aligner_probe.checkpoints.parts import PrefixParts, UnfitTensors, stack_gates, stack_prefixes

NAME = "PEFT AdaptionPrompt"
PART = re.compile(r"(?:^|\.)layers\.(\d+)\.self_attn\.adaption_(gate|prompt)$")
GPT2_PART = re.compile(r"(?:^|\.)h\.(\d+)\.attn\.adaption_(gate|prompt)$")


def recognises(tensors: StateDict) -> bool:
    return any(PART.search(name) or GPT2_PART.search(name) for name in tensors)


def read(tensors: StateDict, config: dict[str, Any] | None = None) -> PrefixParts:
    """Raises UnfitTensors where tensors and `adapter_config.json` contradict each other, and for GPT-2 folders."""
    if any(GPT2_PART.search(name) for name in tensors):
        raise UnfitTensors(
            "is PEFT's AdaptionPrompt for GPT-2, which adds the prefix after the output projection without passing it "
            "through: another method than LLaMA-Adapter, with no equal here"
        )
    gates, prompts = {}, {}
    for name, tensor in tensors.items():
        found = PART.search(name)
        if not found:
            raise UnfitTensors(
                f"holds {name!r} beside adaption prompts; expected adaption_gate and adaption_prompt only"
            )
        if found[2] == "gate":
            gates[int(found[1])] = tensor
        elif tensor.dim() == 3 and tensor.shape[0] == 1:
            prompts[int(found[1])] = tensor[0]
        else:
            raise UnfitTensors(
                f"the adaption_prompt of layer {found[1]} has shape {tuple(tensor.shape)}; "
                "expected (1, n_tokens, d_model)"
            )
    gate_rows, layers = stack_gates(gates)
    if set(prompts) != set(gates):
        raise UnfitTensors(f"holds prompts for layers {sorted(prompts)} but gates for layers {sorted(gates)}")
    prefix = stack_prefixes(prompts)
    config = config or {}
    for key, found_value in (("adapter_len", prefix.shape[1]), ("adapter_layers", len(layers))):
        if config.get(key, found_value) != found_value:
            raise UnfitTensors(
                f"adapter_config.json says {key} {config[key]}, but the tensors have {found_value}; "
                "one of the two files is from another run"
            )
    base = config.get("base_model_name_or_path")
    base = naming.base_label(base) if isinstance(base, str) else None
    return PrefixParts(
        "llama_adapter", prefix, gate_rows, layers.start, "linear", metadata={"base_model": base} if base else {}
    )
