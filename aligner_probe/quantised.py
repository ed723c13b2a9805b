"""Quantised base models: which are supported, how they are loaded, and which are refused before a weight is read.

A quantised model stores its projections as integers together with scales, about a half or a quarter of the bytes.
Two quantisations are supported, by the name that `load_model(..., quantization=)` takes:

    "nf4"   four bits, by bitsandbytes (BitsAndBytesConfig with bnb_4bit_quant_type="nf4")
    "int8"  eight bits with one scale a row, by torchao (TorchAoConfig with Int8WeightOnlyConfig)

Plain weights are quantised while they are read; a folder that was saved quantised in one of these two ways is read as
it is. Any other quantisation is refused by name: without their scales the stored integers are another model, and
transformers ignores a quantisation that it does not know. `aligner_probe.packed` reads the weights of such a model.
"""

import importlib.util
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aligner_probe.errors import AlignerProbeError, one_of
from aligner_probe.families import family_of
from aligner_probe.packed import NF4_BLOCK, is_packed

#: Precisions that the weights of a base model can have, in storage and in computation.
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
#: The same precisions under safetensors' names.
STORED = ("F32", "BF16", "F16", "F64")
#: The package behind each supported quantisation.
QUANTIZATIONS = {"nf4": "bitsandbytes", "int8": "torchao"}
#: Precisions in which a quantised base can compute.
COMPUTED = PRECISIONS[:3]
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
WAY_ON = (
    "supported are nf4 (bitsandbytes) and int8 (torchao): name the model it was made from, in float32, bfloat16 or "
    'float16, with quantization="nf4" or "int8" (--quantization), or convert it to one of these first'
)


def precision(dtype: torch.dtype | str) -> torch.dtype:
    """A precision, given as a torch.dtype or by its name ("float32").

    Raises AlignerProbeError for any other than `PRECISIONS`.
    """
    given = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if given not in PRECISIONS:
        raise AlignerProbeError(
            f"dtype {_name(dtype)}; expected torch.float32, or one of {', '.join(map(_name, PRECISIONS[1:]))}"
        )
    return given


def check_model(model: nn.Module, asked: str | None) -> None:
    """Raises AlignerProbeError for a plain transformers model that cannot be a base because of its quantisation."""
    if quantization_of(model) is not None:
        _check_separate(type(model).__name__, "this model")
    check_quantization(asked, model)


def check_quantization(asked: str | None, model: nn.Module | None = None) -> None:
    """Raises AlignerProbeError for an unknown quantisation, and for another one than that of a model in memory."""
    if asked is None:
        return
    one_of(asked, QUANTIZATIONS, "quantization")
    if model is not None and asked != (own := quantization_of(model)):
        raise AlignerProbeError(
            f"quantization {asked!r} for a model in memory that is {own or 'plain'}; expected None: a model is "
            "quantised while it is read, so name its hub id or folder"
        )


def quantization_to_use(
    asked: str | None,
    stored: str | None,
    config: Any,
    place: str | Path,
    dtype: torch.dtype,
    device: str | torch.device | None,
) -> str | None:
    """The quantisation with which a stored base model is read; None for plain weights.

    Args:
        asked: "nf4", "int8" or None for the model as it is stored.
        stored: What `stored_quantization` says of it.
        config: The model's Hugging Face configuration.
        place: Its folder or hub id.
        dtype: The precision in which it will compute.
        device: Where it will be; None is the CPU.

    Raises:
        AlignerProbeError: The model is stored in another quantisation than `asked`, the family or its sizes cannot be
            quantised, it would compute in float64, or the package is missing.
    """
    check_quantization(asked)
    if stored is not None and asked not in (None, stored):
        raise AlignerProbeError(
            f"{place} is stored as {stored}, and {asked} was asked for; leave quantization (--quantization) out, or "
            "name the unquantised model"
        )
    used = asked or stored
    if used is not None:
        _check_possible(used, config, place, dtype, torch.device(device or "cpu"))
    return used


def _check_possible(
    quantization: str, config: Any, place: str | Path, dtype: torch.dtype, device: torch.device
) -> None:
    _check_separate((config.architectures or [""])[0], str(place))
    if dtype not in COMPUTED:
        raise AlignerProbeError(
            f"a quantised base cannot compute in {_name(dtype)}; expected {', '.join(map(_name, COMPUTED))}"
        )
    if quantization == "nf4" and device.type == "cpu":
        _check_rows(config, place)
    package = QUANTIZATIONS[quantization]
    if importlib.util.find_spec(package) is None:
        raise AlignerProbeError(
            f"quantization {quantization} needs the package {package}, which is not installed; pip install "
            f'"aligner-probe[quantised]"'
        )


def _check_separate(architecture: str, what: str) -> None:
    if not family_of(architecture).has_separate_projections:
        raise AlignerProbeError(
            f"{what} cannot be a quantised base: {architecture} computes query, key and value in one fused "
            "projection, which TransformerLens splits, and packed weights cannot be split; load it plain, without "
            "quantization (--quantization)"
        )


def _check_rows(config: Any, place: str | Path) -> None:
    """Raises AlignerProbeError where the rows of a projection are no whole number of blocks.

    bitsandbytes' kernels for the CPU unpack each row by itself. Where a block of 64 values goes on in the next row,
    they give wrong values without an error, or crash (measured on 0.50.2).
    """
    heads, d_model = config.num_attention_heads, config.hidden_size
    d_head = getattr(config, "head_dim", None) or d_model // heads
    rows = {"hidden_size": d_model, "intermediate_size": config.intermediate_size, "heads x head_dim": heads * d_head}
    odd = [f"{name} {size}" for name, size in rows.items() if size % NF4_BLOCK]
    if odd:
        raise AlignerProbeError(
            f"{place} cannot be nf4 on the CPU: {', '.join(odd)}; expected sizes divisible by {NF4_BLOCK}, since "
            'bitsandbytes\' CPU kernels are wrong for others: take quantization="int8" (--quantization int8), or a GPU'
        )


def stored_quantization(config: Any, place: str | Path) -> str | None:
    """The quantisation in which a base model is stored, by its configuration and the files beside it; None for plain.

    Nothing but config.json, the names of files and the headers of safetensors files is read.

    Raises AlignerProbeError for a quantisation other than `QUANTIZATIONS`.
    """
    for name in FILES:
        if (Path(place) / name).is_file():
            raise AlignerProbeError(f"{place} is quantised: it has a {name} beside its config.json; {WAY_ON}")
    own = getattr(config, "quantization_config", None)
    if own is not None and (supported := _supported(own)) is not None:
        return supported
    for part in (config, *_parts(config)):
        for key in KEYS:
            said = getattr(part, key, None)
            if said is not None:
                raise AlignerProbeError(
                    f"{place} is quantised: its config.json has {key} {_method(said)}, and reading its weights as "
                    f"plain ones would make another model; {WAY_ON}"
                )
        stored = getattr(part, "dtype", None)
        if isinstance(stored, torch.dtype) and stored not in PRECISIONS:
            raise AlignerProbeError(
                f"{place} is stored in {_name(stored)} by its config.json; expected a base in "
                f"{', '.join(map(_name, PRECISIONS))}: {WAY_ON}"
            )
    for file in sorted(Path(place).glob("*.safetensors")) if Path(place).is_dir() else ():
        _refuse_stored(file)
    return None


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
    left = sorted(name for name in names if name.endswith(TENSORS))
    if left:
        raise AlignerProbeError(
            f"{place} is quantised, though its config.json does not say so: its weights hold {left[0]!r} and "
            f"{len(left) - 1} more such tensors; {WAY_ON}"
        )


def reading_options(
    quantization: str | None, *, is_stored: bool, dtype: torch.dtype, device: str | torch.device | None
) -> dict[str, Any]:
    """What `from_pretrained` needs besides to read a model with a quantisation; nothing for plain weights.

    A model that is stored quantised brings its own settings (`is_stored`). The weights are quantised on `device`.
    """
    if quantization is None:
        return {}
    # transformers would take a GPU that it sees.
    options: dict[str, Any] = {"device_map": {"": torch.device(device or "cpu")}}
    with _quiet():
        importlib.import_module(QUANTIZATIONS[quantization])
        if not is_stored:
            options["quantization_config"] = _settings(quantization, dtype)
    return options


def _settings(quantization: str, dtype: torch.dtype) -> Any:
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if quantization == "nf4":
        return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    from torchao.quantization import Int8WeightOnlyConfig  # pyright: ignore[reportMissingImports] an optional package

    return TorchAoConfig(Int8WeightOnlyConfig())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back warnings of packages about their own kernels that they log while they are imported."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def quantization_of(model: nn.Module) -> str | None:
    """The quantisation of a model in memory, "nf4" or "int8"; None for a plain one.

    Raises AlignerProbeError for another quantisation, and for weights that are no floats.
    """
    named = type(model).__name__
    said = getattr(getattr(model, "config", None), "quantization_config", None)
    supported = None if said is None else _supported(said)
    quantised = getattr(model, "hf_quantizer", None) is not None or getattr(model, "is_quantized", False)
    if supported is None and (quantised or said is not None):
        raise AlignerProbeError(f"this {named} is quantised ({_method(said)}); {WAY_ON}")
    for name, module in model.named_modules():
        kind = type(module)
        of_package = kind.__module__.startswith((*PACKAGES, *TORCH_QUANTISED))
        if of_package and not (supported == "nf4" and kind.__name__ == "Linear4bit"):
            raise AlignerProbeError(
                f"this {named} is quantised: {name} is a {kind.__module__}.{kind.__name__}; {WAY_ON}"
            )
    for name, parameter in model.named_parameters():
        if supported is not None and is_packed(parameter):
            continue
        if parameter.dtype not in PRECISIONS:
            raise AlignerProbeError(
                f"this {named} has {name} in {_name(parameter.dtype)}; expected weights in "
                f"{', '.join(map(_name, PRECISIONS))}: {WAY_ON}"
            )
        if type(parameter.data).__module__.startswith(PACKAGES):
            raise AlignerProbeError(f"this {named} is quantised: {name} is a {type(parameter.data).__name__}; {WAY_ON}")
    return supported


def _supported(said: Any) -> str | None:
    """Which of `QUANTIZATIONS` a description of a quantisation means; None for any other."""
    content = said if isinstance(said, Mapping) else getattr(said, "__dict__", {})
    method = str(getattr(content.get("quant_method"), "value", content.get("quant_method")))
    if method == "bitsandbytes":
        four_bits = content.get("load_in_4bit") or content.get("_load_in_4bit")
        return "nf4" if four_bits and content.get("bnb_4bit_quant_type") == "nf4" else None
    if method == "torchao":
        kind = content.get("quant_type")
        if isinstance(kind, Mapping):
            kind = kind.get("default", kind)
            kind = kind.get("_type") if isinstance(kind, Mapping) else None
        name = kind if isinstance(kind, str) else type(kind).__name__
        return "int8" if name == "Int8WeightOnlyConfig" else None
    return None


def _parts(config: Any) -> Iterator[Any]:
    """The configurations inside a configuration, for instance that of the text model in a multimodal one."""
    for value in list(vars(config).values()):
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            yield value


def _method(said: Any) -> str:
    """The name of a quantisation, from its description in a configuration."""
    content = said if isinstance(said, Mapping) else getattr(said, "__dict__", {})
    method = content.get("quant_method")
    method = getattr(method, "value", method)
    bits = content.get("bits") or (4 if content.get("load_in_4bit") else 8 if content.get("load_in_8bit") else None)
    kind = content.get("bnb_4bit_quant_type") if content.get("load_in_4bit") else None
    said_bits = f"of {bits} bits" + (f" ({kind})" if kind else "") if bits else "of an unnamed method"
    if method is None:
        return said_bits
    return repr(str(method)) + (f" {said_bits}" if bits else "")


def _name(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")
