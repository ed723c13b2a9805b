"""Recognise quantised base models before their weights are read, and refuse them.

A quantised model stores integers or 8-bit floats together with scales. Without the scales, the stored values are
another model. transformers ignores a quantisation that it does not know, and dequantises some others, depending on the
machine. Fingerprints, merges and the projections of prefix tokens need plain floating-point weights. So a quantised
model is refused, with the name of its quantisation.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aligner_probe.errors import AlignerProbeError

#: Precisions that the weights of a base model can have, in storage and in computation.
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: The same precisions under safetensors' names.
STORED = ("F32", "BF16", "F16", "F64")
#: Keys of config.json that describe a quantisation; "quantization" is MLX's.
KEYS = ("quantization_config", "compression_config", "quantization")
#: Files beside config.json in which older tools (AutoGPTQ, AutoAWQ, ModelOpt) describe it instead.
FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
#: Ends of tensor names that only quantised weights have.
TENSORS = (
    *(".weight_scale", ".weight_scale_inv", ".weight_scale_2", ".weight_zero_point", ".weight_packed", ".input_scale"),
    *(".qweight", ".qzeros", ".scales", ".g_idx", ".weight.absmax", ".weight.quant_map", ".SCB", "_blocks", "_scales"),
)
#: Packages whose modules hold quantised weights.
PACKAGES = ("bitsandbytes", "torchao", "gptqmodel", "auto_gptq", "awq", "hqq", "optimum.quanto", "compressed_tensors")
TORCH_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
WAY_ON = "name the model it was made from, in float32, bfloat16 or float16, or convert it to one of them first"


def precision(dtype: torch.dtype | str) -> torch.dtype:
    """A precision, given as a torch.dtype or by its name ("float32").

    Raises AlignerProbeError for any other than `PRECISIONS`.
    """
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if found not in PRECISIONS:
        raise AlignerProbeError(
            f"dtype {_name(dtype)}; expected torch.float32, or one of {', '.join(map(_name, PRECISIONS[1:]))}"
        )
    return found


def refuse_quantised_config(config: Any, place: str | Path) -> None:
    """Raises AlignerProbeError if a base model's configuration, or a file beside it, says that it is quantised."""
    for part in (config, *_parts(config)):
        for key in KEYS:
            found = getattr(part, key, None)
            if found is not None:
                raise AlignerProbeError(
                    f"{place} is quantised: its config.json has {key} {_method(found)}, and reading its weights as "
                    f"plain ones would make another model; {WAY_ON}"
                )
        stored = getattr(part, "dtype", None)
        if isinstance(stored, torch.dtype) and stored not in PRECISIONS:
            raise AlignerProbeError(
                f"{place} is stored in {_name(stored)} by its config.json; expected a base in "
                f"{', '.join(map(_name, PRECISIONS))}: {WAY_ON}"
            )
    for name in FILES:
        if (Path(place) / name).is_file():
            raise AlignerProbeError(f"{place} is quantised: it has a {name} beside its config.json; {WAY_ON}")
    for file in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        _refuse_stored(file)


def _refuse_stored(file: Path) -> None:
    """Raises AlignerProbeError if the header of a file says that it holds weights as integers or 8-bit floats.

    A damaged file raises nothing here; reading it will.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                stored = opened.get_slice(name).get_dtype() if name.endswith(".weight") else "F32"
                if stored not in STORED:
                    raise AlignerProbeError(
                        f"{file} holds {name} as {stored}; expected weights of a base as {', '.join(STORED)}: {WAY_ON}"
                    )
    except (SafetensorError, OSError):
        return


def refuse_quantised_tensors(names: Iterator[str] | set[str] | list[str], place: str | Path) -> None:
    """Raises AlignerProbeError if tensors that the model has no use for are the scales of quantised weights."""
    found = sorted(name for name in names if name.endswith(TENSORS))
    if found:
        raise AlignerProbeError(
            f"{place} is quantised, though its config.json does not say so: its weights hold {found[0]!r} and "
            f"{len(found) - 1} more such tensors; {WAY_ON}"
        )


def refuse_quantised_model(model: nn.Module) -> None:
    """Raises AlignerProbeError for a model object with quantised weights, or with weights that are no floats."""
    named = type(model).__name__
    quantised = getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False)
    if quantised or getattr(getattr(model, "config", None), "quantization_config", None) is not None:
        raise AlignerProbeError(
            f"this {named} is quantised ({_method(getattr(model.config, 'quantization_config', None))}); {WAY_ON}"
        )
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith((*PACKAGES, *TORCH_QUANTISED)):
            raise AlignerProbeError(
                f"this {named} is quantised: {name} is a {kind.__module__}.{kind.__name__}; {WAY_ON}"
            )
    for name, parameter in model.named_parameters():
        if parameter.dtype not in PRECISIONS:
            raise AlignerProbeError(
                f"this {named} has {name} in {_name(parameter.dtype)}; expected weights in "
                f"{', '.join(map(_name, PRECISIONS))}: {WAY_ON}"
            )
        if type(parameter.data).__module__.startswith(PACKAGES):
            raise AlignerProbeError(f"this {named} is quantised: {name} is a {type(parameter.data).__name__}; {WAY_ON}")


def _parts(config: Any) -> Iterator[Any]:
    """The configurations inside a configuration, for instance that of the text model in a multimodal one."""
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield value


def _method(found: Any) -> str:
    """The name of a quantisation, from its description in a configuration."""
    content = found if isinstance(found, Mapping) else getattr(found, "__dict__", {})
    method = content.get("quant_method")
    method = getattr(method, "value", method)
    if method is None:
        bits = content.get("bits") or (4 if content.get("load_in_4bit") else 8 if content.get("load_in_8bit") else None)
        return f"of {bits} bits" if bits else "of an unnamed method"
    return repr(str(method))


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
