"""Which base model a bridge holds: a hash of its weights, and whether two bases are one model in two precisions."""

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.bridges import KnownFingerprint, state_of
from aligner_probe.packed import is_packed, packing_of, stored_parts

#: How many entries of each tensor enter the fingerprint: enough to tell models apart, and quick for seven billion
#: parameters.
FINGERPRINT_NUMBERS = 4096
#: A step between two drawn entries that is at least this long must not divide the length of a row; see `_step`.
LONG_STEP = 256


def fingerprint(model: TransformerBridge) -> str:
    """A SHA-256 hash that tells one base model from another.

    It is computed from evenly drawn entries of every weight, rounded to bfloat16, so it is the same in float32 and
    bfloat16. A model that `load_model` read in float16 has the fingerprint of its stored weights, as long as nobody
    changes them; a model object in float16 has a fingerprint of its own.

    For a quantised base, entries of the packed values and of their scales are drawn instead, and the name of the
    quantisation is hashed with them. So nf4, int8 and the plain weights of one model have three fingerprints;
    `base_record` and `same_source` know them as one model.

    The fingerprint of a bridge is computed once, and again after a weight was replaced or written into.
    """
    weights, state = _weights(model), state_of(model)
    now = [(name, tensor.data_ptr(), tensor._version) for name, tensor in weights]
    if state.fingerprint is not None and state.fingerprint.weights == now:
        return state.fingerprint.value
    value = digest(model)
    if state.as_stored is not None and state.as_stored.as_read == value:
        value = state.as_stored.value
    state.fingerprint = KnownFingerprint(now, value)
    return value


def digest(model: TransformerBridge) -> str:
    """The hash of a bridge's weights as they are in memory."""
    return _digest(_weights(model), packing_of(model.original_model) or "")


def source_fingerprint(model: TransformerBridge) -> str | None:
    """The fingerprint of the plain weights that a base was made of; for a plain base its own.

    None for a quantised base whose plain weights were never seen: a folder that was saved quantised, a model object,
    and a base that was changed since `load_model` quantised it.
    """
    own, state = fingerprint(model), state_of(model)
    if packing_of(model.original_model) is None:
        return own
    return state.source.value if state.source is not None and state.source.as_read == own else None


def base_record(model: TransformerBridge) -> dict[str, Any]:
    """What a saved adapter records about its base model, as a dictionary that JSON takes.

    "fingerprint" is that of the weights on which it was trained. "quantization" ("nf4", "int8" or None), "source" (the
    fingerprint of the plain weights, None where they are not known) and "never_packed" (a hash of the embeddings,
    norms, biases and unembedding, which no quantisation packs) recognise the same model in another precision.
    """
    return {
        "architecture": type(model.original_model).__name__,
        "fingerprint": fingerprint(model),
        "quantization": packing_of(model.original_model),
        "source": source_fingerprint(model),
        "never_packed": _digest(_never_packed(model), ""),
    }


def same_source(recorded: Mapping[str, Any], model: TransformerBridge) -> bool:
    """Whether a recorded base (`base_record`) and a model are one base model, of which at least one is quantised.

    The fingerprints of the plain weights decide. Where one of them is not known, the weights that no quantisation packs
    decide: they are also equal where somebody trained nothing but the projections of a model. A record of an older
    version has the fingerprint alone, which is that of plain weights.
    """
    own = base_record(model)
    before = recorded.get("quantization")
    if before is None and own["quantization"] is None:
        return False
    source = recorded.get("source") or (None if before else recorded.get("fingerprint"))
    if source is not None and own["source"] is not None:
        return source == own["source"]
    return own["never_packed"] == recorded.get("never_packed")


def _weights(model: TransformerBridge) -> list[tuple[str, Tensor]]:
    """The plain tensors of a base model by name, sorted; for a packed weight its values and its scales."""
    original = model.original_model
    packed = {
        f"{path}.{name}".lstrip("."): parameter
        for path, module in original.named_modules(remove_duplicate=False)
        for name, parameter in module._parameters.items()
        if parameter is not None and is_packed(parameter)
    }
    state = original.state_dict()
    if not packed:
        return sorted(state.items())
    # bitsandbytes puts the scales beside the weight, and with them a text that depends on the precision.
    beside = tuple(f"{name}." for name in packed)
    plain = [(name, tensor) for name, tensor in state.items() if name not in packed and not name.startswith(beside)]
    return sorted([*plain, *(part for name, parameter in packed.items() for part in stored_parts(name, parameter))])


def _never_packed(model: TransformerBridge) -> list[tuple[str, Tensor]]:
    """The tensors of a base model that stay plain in every quantisation, by name, sorted."""
    original: Any = model.original_model
    unembedding = original.get_output_embeddings()
    unembedding = getattr(unembedding, "original_component", unembedding)
    left_out = {
        f"{path}.weight"
        for path, module in original.named_modules(remove_duplicate=False)
        if isinstance(module, nn.Linear) and module is not unembedding
    }
    return [(name, tensor) for name, tensor in _weights(model) if not any(name.startswith(one) for one in left_out)]


def _digest(weights: list[tuple[str, Tensor]], quantization: str) -> str:
    digest = hashlib.sha256(quantization.encode())
    for name, tensor in weights:
        drawn = tensor.reshape(-1)[:: _step(tensor)].to(torch.bfloat16)
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(drawn.contiguous().view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def _step(tensor: Tensor) -> int:
    """The distance from one drawn entry of a tensor to the next.

    In a large matrix it has no common divisor with the length of a row, so that entries of all columns are drawn.
    """
    step, row = max(1, tensor.numel() // FINGERPRINT_NUMBERS), tensor.shape[-1] if tensor.ndim > 1 else 1
    while step >= LONG_STEP and math.gcd(step, row) > 1:
        step += 1
    return step
