"""lit-llama and litgpt files: the authors' Aligner, and LLaMA-Adapter V1.

An Aligner has `global_value_embedding.weight` (n_tokens, d_model) and, for each adapted layer l,
`transformer.h.{l}.attn.gating_factor` (1, n_heads, 1, 1). Some files also have, for each layer,
`transformer.h.{l}.attn.adapter_wte.weight`, which repeats the global tensor (github.com/mytemporalaccount/Aligner,
lit_llama/aligner.py). A LLaMA-Adapter has another `adapter_wte.weight` in each layer and no global one. litgpt stores
gates as (1, 1, n_heads, 1); the oldest files have one scalar for each layer.
"""

import io
import re
from pathlib import Path

import torch

from aligner_probe.checkpoints.containers import StateDict
from aligner_probe.checkpoints.format import CheckpointFormat, KnownBase
from aligner_probe.checkpoints.prefix import PrefixCheckpoint, PrefixParts, UnfitTensors, stack_gates, stack_prefixes
from aligner_probe.files import whole

GLOBAL = re.compile(r"^(?:\w+\.)*global_value_embedding\.weight$")
LAYER = re.compile(r"^(?:\w+\.)*transformer\.h\.(\d+)\.attn\.(gating_factor|adapter_wte\.weight)$")
ALIAS = re.compile(r"^(?:\w+\.)*adapter_wte\.weight$")


def recognises(tensors: StateDict) -> bool:
    """Whether a tensor has one of the names of lit-llama's prefix adapters."""
    return any(GLOBAL.match(name) or LAYER.match(name) for name in tensors)


def read(tensors: StateDict) -> PrefixParts:
    """The adapter in a file's tensors. Raises UnfitTensors if gates or prefixes are missing or do not fit together."""
    shared = next((tensor for name, tensor in tensors.items() if GLOBAL.match(name)), None)
    gates, prefixes, aliases, unknown = {}, {}, [], []
    for name, tensor in tensors.items():
        if match := LAYER.match(name):
            layer, what = int(match[1]), match[2]
            (gates if what == "gating_factor" else prefixes)[layer] = tensor
        elif ALIAS.match(name):
            aliases.append(tensor)
        elif not GLOBAL.match(name):
            unknown.append(name)
    if unknown:
        raise UnfitTensors(
            f"holds {len(unknown)} tensors that are no part of a prefix adapter, {unknown[0]!r} for one (a whole "
            "model, or LLaMA-Adapter V2, whose scales and biases a prefix cannot carry); save prefix and gates alone"
        )
    gate_rows, layers = stack_gates(gates)
    # Modules that share one embedding are saved as names of one storage: an Aligner without its global name.
    if shared is None and len(prefixes) > 1 and len({tensor.data_ptr() for tensor in prefixes.values()}) == 1:
        shared = next(iter(prefixes.values()))
    if shared is not None:
        if not all(torch.equal(shared, other) for other in [*prefixes.values(), *aliases]):
            raise UnfitTensors("holds a global prefix and other ones for some layers; expected one or the other")
        return PrefixParts("aligner", stack_prefixes({0: shared}), gate_rows, layers.start, "linear")
    if set(prefixes) != set(gates):
        raise UnfitTensors(
            f"holds prefixes for layers {sorted(prefixes)} but gates for layers {sorted(gates)}; expected both for each"
        )
    return PrefixParts("llama_adapter", stack_prefixes(prefixes), gate_rows, layers.start, "linear")


def state_dict(checkpoint: PrefixCheckpoint) -> StateDict:
    """The tensors of a checkpoint under the authors' names, in their shapes and their order.

    The tokens of an Aligner are repeated in each layer, as views of one storage. Gates of this format are linear, so a
    tanh gate becomes the value of its tanh. A gate for a whole layer has fewer than four axes, as in the oldest files;
    lit-llama repeats it for all heads.
    """
    linear = checkpoint.linear()
    one_a_layer = linear.gates_per_layer == 1
    state: StateDict = {}
    if linear.method == "aligner":
        state["global_value_embedding.weight"] = linear.prefix[0]
    for index, layer in enumerate(linear.layers):
        attention = f"transformer.h.{layer}.attn"
        # A gate of its own storage: a view would carry all layers' gates into the file.
        gate = linear.gates[index].clone()
        state[f"{attention}.gating_factor"] = gate if one_a_layer else gate.reshape(1, -1, 1, 1)
        own = linear.prefix[0] if linear.method == "aligner" else linear.prefix[index].clone()
        state[f"{attention}.adapter_wte.weight"] = own
    return state


def write(checkpoint: PrefixCheckpoint, path: str | Path) -> Path:
    """Write a `.pth` file that lit-llama and `read` can read, in the precision of the checkpoint.

    The initial values of the parameters are left out. Raises AlignerProbeError if the file exists or cannot be written.
    """
    path = Path(path)
    # Through memory, since torch reports a full disk as a RuntimeError.
    buffer = io.BytesIO()
    torch.save(state_dict(checkpoint), buffer)
    with whole(path) as new:
        new.write_bytes(buffer.getvalue())
    return path


def _notes(checkpoint: PrefixCheckpoint, base: KnownBase) -> list[str]:
    if checkpoint.gates_per_layer == 1:
        return ["one gate a layer, which lit-llama repeats to all heads when it loads the file"]
    return []


FORMAT = CheckpointFormat(
    name="lit-llama .pth",
    holds=PrefixCheckpoint,
    recognises=lambda stored: recognises(stored.tensors),
    read=lambda stored: read(stored.tensors),
    export_name="lit-llama",
    write=lambda checkpoint, path, base: write(checkpoint, path),
    notes=_notes,
)
