"""OpenGVLab's LLaMA-Adapter V1 files (arXiv 2303.16199, alpaca_finetuning_v1).

`adapter_query.weight` has shape (adapted layers x n_tokens, d_model); its rows begin with the lowest adapted layer.
Every layer of the model has a `layers.{i}.attention.gate`. The gates of layers without an adapter were never trained
and are zero. The file records neither how many tokens each layer has nor that the gates go through tanh.
"""

import re

from aligner_probe.checkpoints.containers import StateDict
from aligner_probe.checkpoints.format import CheckpointFormat
from aligner_probe.checkpoints.prefix import GateFunction, PrefixCheckpoint, PrefixParts, UnfitTensors, stack_gates

QUERY = re.compile(r"^(?:\w+\.)*adapter_query\.weight$")
GATE = re.compile(r"^(?:\w+\.)*layers\.(\d+)\.attention\.gate$")
ASK = "name the tokens a layer with --adapter-length (adapter_length= in Python); the authors' default is 10"


def recognises(tensors: StateDict) -> bool:
    """Whether there is a tensor adapter_query.weight."""
    return any(QUERY.match(name) for name in tensors)


def read(
    tensors: StateDict, *, gate_function: GateFunction | None = None, adapter_length: int | None = None
) -> PrefixParts:
    """The adapter in a file's tensors.

    Args:
        tensors: All tensors of the file, by name.
        gate_function: What multiplies the prefix attention: the gate ("linear") or tanh of the gate; tanh if None.
        adapter_length: Prefix tokens per layer. None: count the layers that have a gate other than zero.

    Raises:
        UnfitTensors: The adapted layers cannot be determined, or they do not divide the rows evenly.
    """
    query = next(tensor for name, tensor in tensors.items() if QUERY.match(name))
    gates = {int(match[1]): tensor for name, tensor in tensors.items() if (match := GATE.match(name))}
    unknown = [name for name in tensors if not QUERY.match(name) and not GATE.match(name)]
    if unknown:
        raise UnfitTensors(
            f"holds {len(unknown)} tensors that are no part of LLaMA-Adapter V1, {unknown[0]!r} for one (a whole "
            "model, or V2, whose scales and biases a prefix cannot carry); save adapter_query and the gates alone"
        )
    if query.dim() != 2:
        raise UnfitTensors(f"adapter_query has shape {tuple(query.shape)}; expected (layers x n_tokens, d_model)")
    all_gates, all_layers = stack_gates(gates)
    live = [layer for layer, row in zip(all_layers, all_gates, strict=True) if bool((row != 0).any())]
    rows = query.shape[0]
    adapted = _adjoining(rows, live) if adapter_length is None else _window(rows, adapter_length, all_layers, live)
    first = adapted[0] - all_layers.start
    return PrefixParts(
        "llama_adapter",
        query.reshape(len(adapted), rows // len(adapted), query.shape[1]),
        all_gates[first : first + len(adapted)],
        adapted[0],
        gate_function or "tanh",
        metadata={"gate_function_from": "option" if gate_function else "default of the format"},
    )


def _adjoining(rows: int, live: list[int]) -> list[int]:
    """The adapted layers where the number of tokens is not given: all layers with a gate other than zero."""
    if not live:
        raise UnfitTensors(f"has no gate other than zero, so its adapted layers cannot be told; {ASK}")
    if live != list(range(live[0], live[-1] + 1)) or rows % len(live):
        raise UnfitTensors(
            f"has {rows} prefix rows and {len(live)} layers with a gate other than zero "
            f"({live[0]} to {live[-1]}), which does not divide evenly over adjoining layers; {ASK}"
        )
    return live


def _window(rows: int, adapter_length: int, layers: range, live: list[int]) -> list[int]:
    """The adapted layers for a given number of tokens per layer: the highest that include every gate but zeros."""
    n_layers, rest = divmod(rows, adapter_length) if adapter_length > 0 else (0, 1)
    if rest or not 0 < n_layers <= len(layers):
        raise UnfitTensors(
            f"has {rows} prefix rows and {len(layers)} gated layers, which --adapter-length {adapter_length} "
            "does not fit; expected a divisor of the rows that leaves no more layers than have gates"
        )
    first = min([layers.stop - n_layers, *live[:1]])
    if live and live[-1] >= first + n_layers:
        raise UnfitTensors(
            f"has gates other than zero in layers {live[0]} to {live[-1]}, but --adapter-length {adapter_length} makes "
            f"{n_layers} layers of its {rows} prefix rows; expected enough layers for all such gates"
        )
    return list(range(first, first + n_layers))


FORMAT = CheckpointFormat(
    name="OpenGVLab LLaMA-Adapter .pth",
    holds=PrefixCheckpoint,
    recognises=lambda stored: recognises(stored.tensors),
    read=lambda stored: read(stored.tensors, gate_function=stored.gate_function, adapter_length=stored.adapter_length),
)
