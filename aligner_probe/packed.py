"""The weights of a quantised base model: as plain tensors, their sizes, and what is stored of them.

    weight = unpacked(model.blocks[0].attn.v.original_component)     # (d_out, d_in), of the layer's own precision

bitsandbytes keeps a projection as bytes of two four-bit codes with one scale (absmax) for each 64 values, torchao as
8-bit integers with one scale a row. Neither package is imported here: their tensors are recognised by what they have.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

#: How many values of a weight share a scale in nf4.
NF4_BLOCK = 64


def is_packed(parameter: object) -> bool:
    """Whether a parameter is stored in four or eight bits by bitsandbytes or torchao."""
    return _is_four_bits(parameter) or _is_eight_bits(parameter)


def _is_four_bits(parameter: Any) -> bool:
    return getattr(parameter, "quant_state", None) is not None


def _is_eight_bits(parameter: Any) -> bool:
    return type(parameter).__module__.startswith("torchao.") and hasattr(parameter, "qdata")


def has_packed_weight(module: Any) -> bool:
    """Whether the weight of a projection is packed; False for a module without a weight."""
    return isinstance(module, nn.Module) and is_packed(module._parameters.get("weight"))


def packing_of(model: nn.Module) -> str | None:
    """How the projections of a model are packed, "nf4" or "int8"; None for plain weights."""
    for parameter in model.parameters():
        if is_packed(parameter):
            return "nf4" if _is_four_bits(parameter) else "int8"
    return None


@torch.no_grad()
def unpacked(module: Any) -> Float[Tensor, "d_out d_in"]:
    """The weight of a projection with which the model computes: a packed one unpacked, any other as it is."""
    weight = module.weight
    if _is_four_bits(weight):
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, weight.quant_state)
    return weight.dequantize() if _is_eight_bits(weight) else weight


def numel_of(parameter: Tensor) -> int:
    """The number of values of a parameter, of a packed one as well."""
    return math.prod(parameter.quant_state.shape) if _is_four_bits(parameter) else parameter.numel()  # pyright: ignore[reportAttributeAccessIssue] bitsandbytes' own attribute


def bytes_of(parameter: Tensor) -> int:
    """The bytes that a parameter takes in memory, with the scales of a packed one."""
    return sum(tensor.nbytes for _, tensor in stored_parts("", parameter))


def stored_parts(name: str, parameter: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The plain tensors that a parameter is stored as, by name: itself, or packed values and scales."""
    packed: Any = parameter
    if _is_four_bits(parameter):
        state = packed.quant_state
        yield name, packed.detach().view(torch.uint8)
        yield f"{name}.absmax", state.absmax
        yield f"{name}.code", state.code
        if state.nested:  # the scales are quantised themselves ("double quantisation")
            yield f"{name}.nested_absmax", state.state2.absmax
            yield f"{name}.nested_code", state.state2.code
            yield f"{name}.nested_offset", state.offset
    elif _is_eight_bits(parameter):
        for part in ("qdata", "scale", "zero_point"):
            if isinstance(tensor := getattr(packed, part, None), Tensor):
                yield f"{name}.{part}", tensor
    else:
        yield name, parameter


def compute_as_trained(model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Make the four-bit projections of a model compute the same with and without gradients.

    On processors with AVX512_BF16, bitsandbytes' projections pack their weights anew at the first call without a
    gradient, and from then on compute in bfloat16, whatever the precision of the model. Calls with a gradient go the
    same way after that, and their gradients are lost without an error (measured on 0.50.2). This is switched off here.
    Weights that were packed so are put back, with scales that bitsandbytes has rounded to bfloat16 by then.

    Args:
        model: The plain transformers model.
        dtype: The precision in which the projections compute; None is the one that was saved with them.
    """
    for module in model.modules():
        weight = module._parameters.get("weight")
        if not _is_four_bits(weight):
            continue
        projection: Any = module
        if dtype is not None:
            projection.compute_dtype = dtype
        if hasattr(projection, "support_avx512bf16_for_cpu"):
            projection.support_avx512bf16_for_cpu = False
        if getattr(projection.weight.quant_state, "packing_format_for_cpu", False):
            from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

            scales = projection.weight.quant_state.absmax.T.flatten().float()
            stored, state = _convert_weight_packed_for_cpu_inverse(
                projection.weight.data, projection.weight.quant_state
            )
            if not state.nested:  # bitsandbytes leaves them in the order of the other packing
                state.absmax = scales
            projection.weight.data, projection.weight.quant_state = stored, state
