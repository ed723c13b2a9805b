"""Save an adapter of any registered method, and load a saved one, or one of another project, onto a model.

The folder has the native format (`native.py`): the tensors under the adapter's own names, the parameters that training
started from as `initial.*`, the options of the method in `adapter_config.json`, and in `provenance.json` the
fingerprint of the base model, which loading compares.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import METHODS, Adapter, LoRA, OutputBias
from aligner_probe.adapters.prefix import PrefixAdapter
from aligner_probe.adapters.registry import expected_methods, is_registered, new_adapter
from aligner_probe.arguments import a_model, accepts
from aligner_probe.checkpoints import lora, native, peft_bias, peft_lora, peft_prompts
from aligner_probe.checkpoints.containers import read_tensors
from aligner_probe.checkpoints.given import one_adapter
from aligner_probe.checkpoints.peft_base import check_named_base
from aligner_probe.checkpoints.prefix import GateFunction, PrefixCheckpoint, dtype_name
from aligner_probe.checkpoints.reading import config_of, load_checkpoint
from aligner_probe.errors import AlignerProbeError, AlignerProbeWarning, CheckpointError
from aligner_probe.files import sha256
from aligner_probe.fingerprints import base_record, fingerprint, same_source
from aligner_probe.models import architecture_of, precision_in_words


@accepts(adapter=one_adapter)
def save_adapter(
    adapter: Adapter, folder: str | Path, *, run: dict[str, Any] | None = None, overwrite: bool = False
) -> Path:
    """Write an adapter's folder, whole or not at all.

    Args:
        adapter: the adapter, or the `Run` of a training, whose adapter is meant. Prefix tuning with `reparametrise` is
            written without its network, as an adapter that computes the same (`Adapter.folded`).
        folder: where to.
        run: what made the parameters, for provenance.json; None for what the last training recorded.
        overwrite: replace a folder that is there already, if it is a saved adapter.

    Returns:
        The folder.

    Raises:
        AlignerProbeError: where the class of the adapter is not registered, so that it could not be loaded; where the
            folder exists already, unless `overwrite`; or where it cannot be written.
    """
    if not is_registered(type(adapter)):
        name = type(adapter).__qualname__
        raise AlignerProbeError(
            f"{name} is not registered, so what is saved could not be loaded; register the class under a name: "
            f'ap.register_adapter("{adapter.method}")({name}), or as a decorator above `class {name}`'
        )
    adapter = adapter.folded()
    tensors = {name: tensor.detach().cpu() for name, tensor in adapter.state_dict().items()}
    start = adapter.start or {}
    config: dict[str, Any] = {"options": adapter.config.to_dict()}
    if isinstance(adapter, PrefixAdapter):
        # Reading without a model compares the sizes of the tensors with these.
        options = adapter.config
        config |= native.prefix_config(adapter.prefix, adapter.gates, options.start_layer, options.gate_function)
    return native.write_folder(
        folder,
        tensors | {f"initial.{name}": tensor.detach().cpu() for name, tensor in start.items()},
        {"method": adapter.method, "dtype": dtype_name(next(adapter.parameters()).dtype), **config},
        {
            "base": base_record(adapter.model),
            "metadata": {"base_model": adapter.model.cfg.model_name},
            "loaded_from": adapter.loaded_from,
            "run": run or adapter.provenance or {},
        },
        overwrite=overwrite,
    )


@accepts(model=a_model)
def load_adapter(
    path: str | Path,
    model: TransformerBridge,
    *,
    force: bool = False,
    gate: GateFunction | str | None = None,
    adapter_length: int | None = None,
) -> Adapter:
    """Read an adapter and put it on a base model.

    Args:
        path: A folder of `save_adapter`, a PEFT folder of LoRA, prefix tuning, prompt tuning or P-tuning, or anything
            that `load_checkpoint` reads. A LoRA of PEFT that is nothing but biases of the attention output is read as
            an OutputBias.
        model: The base model.
        force: Load it even if it was trained on another base model.
        gate: As in `load_checkpoint`.
        adapter_length: As in `load_checkpoint`.

    Returns:
        The adapter, not attached. `loaded_from` says where it comes from.

    Raises:
        AlignerProbeError: Shapes do not fit the model, or the adapter was trained on another base model (another
            fingerprint) and `force` is off. The same base model with another quantisation gives an
            AlignerProbeWarning. A PEFT folder only names its base model: if that model is on this machine, its
            fingerprint is compared; otherwise another name gives an AlignerProbeWarning. Other foreign files do not
            record their base model.
    """
    reading = {"gate": gate, "adapter_length": adapter_length}
    config = config_of(path)
    if "peft_type" in config:
        note = check_named_base(path, config, model, force=force)
        adapter = _from_peft(path, config, model, reading)
        adapter.loaded_from = (adapter.loaded_from or {}) | ({"base_note": note} if note else {})
        return adapter
    if "options" not in config:
        checkpoint = load_checkpoint(path, **reading)
        check_base(path, {"fingerprint": checkpoint.metadata.get("base_fingerprint")}, model, force)
        return _from_checkpoint(checkpoint, model)
    path = Path(path)
    recorded = native.read_provenance(path)
    base = recorded.get("base", {})
    check_base(path, base | {"fingerprint": str(base.get("fingerprint"))}, model, force)
    method = known_method(config["method"], path)
    tensors = read_tensors(path / native.WEIGHTS)
    try:
        adapter = new_adapter(method, model, config["options"], getattr(torch, config["dtype"]))
    except TypeError as error:
        raise CheckpointError(path, f"has options that {config['method']} does not take ({error})") from error
    _fill(adapter, {n: t for n, t in tensors.items() if not n.startswith("initial.")}, path)
    adapter.start = {n.removeprefix("initial."): t for n, t in tensors.items() if n.startswith("initial.")} or None
    adapter.provenance = recorded.get("run") or None
    adapter.loaded_from = _file(path, sha256(path / native.WEIGHTS))
    return adapter


def method_of(path: str | Path, **reading: Any) -> str:
    """The method of a saved adapter; no base model is needed. Raises CheckpointError as `load_adapter` does."""
    config = config_of(path)
    if peft_lora.has_bias(config):
        return OutputBias.method
    if peft_lora.recognises(config):
        return LoRA.method
    if peft_prompts.recognises(config):
        return peft_prompts.METHODS[config["peft_type"]].method
    return known_method(config["method"], path) if "options" in config else load_checkpoint(path, **reading).method


def computes_with(adapter: Adapter) -> dict[str, Any]:
    """What an adapter computes with, as JSON: the SHA-256 of the file that it was loaded from, its method and options.

    One file can be read with different options, for instance with another gate function, so its hash alone does not
    tell adapters apart.
    """
    file = (adapter.loaded_from or {}).get("sha256", "in memory")
    return {"sha256": file, "method": adapter.method, "options": adapter.config.to_dict()}


def known_method(method: Any, path: str | Path) -> str:
    """The method that a saved file names. Raises CheckpointError for one that is not registered."""
    if not isinstance(method, str) or method not in METHODS:
        raise CheckpointError(path, f"has method {method!r}; {expected_methods(method)}")
    return method


def check_base(path: str | Path, recorded: Mapping[str, Any], model: TransformerBridge, force: bool) -> None:
    """Raises AlignerProbeError, unless `force`, where an adapter records another base than the model.

    The same base with another quantisation gives an AlignerProbeWarning, also with `force`.
    """
    before = recorded["fingerprint"]
    if before is None or before == fingerprint(model):
        return
    if same_source(recorded, model):
        trained = recorded.get("quantization") or "plain weights"
        warnings.warn(
            f"{path} was trained on this base in {trained}, and here the base is in {precision_in_words(model)}: its "
            "answers may be worse; score it on both (ap.score_task) to see the drop, or load the base with "
            f"quantization={recorded.get('quantization')!r}",
            AlignerProbeWarning,
            stacklevel=4,
        )
    elif not force:
        architecture = recorded.get("architecture")
        named = f"{architecture}, fingerprint" if architecture else "fingerprint"
        raise AlignerProbeError(
            f"{path} was trained on another base ({named} {before[:12]}) than this {architecture_of(model)} "
            f"({fingerprint(model)[:12]}); load that base, or pass force=True to attach it all the same"
        )


def _from_peft(path: str | Path, config: dict[str, Any], model: TransformerBridge, reading: dict[str, Any]) -> Adapter:
    if peft_prompts.recognises(config):
        adapter = peft_prompts.load(Path(path), config, model)
    elif peft_lora.has_bias(config):
        adapter = peft_bias.load(Path(path), config, model)
    elif peft_lora.recognises(config):
        adapter, tensors = lora.unfilled(peft_lora.load_lora(path), model)
        _fill(adapter, tensors, path)
    else:
        return _from_checkpoint(load_checkpoint(path, **reading), model)
    digest = sha256(peft_lora.weights_of(Path(path)))
    adapter.loaded_from = _file(path, digest) | {"base_model": config.get("base_model_name_or_path") or None}
    return adapter


def _from_checkpoint(checkpoint: PrefixCheckpoint, model: TransformerBridge) -> Adapter:
    options = {
        "n_tokens": checkpoint.n_tokens,
        "start_layer": checkpoint.start_layer,
        "gate_function": checkpoint.gate_function,
        "gate_per": "layer" if checkpoint.gates_per_layer == 1 and model.cfg.n_heads > 1 else "head",
    }
    adapter = new_adapter(checkpoint.method, model, options, checkpoint.dtype)
    _fill(adapter, {"prefix": checkpoint.prefix, "gates": checkpoint.gates}, checkpoint.source)
    if checkpoint.initial_prefix is not None and checkpoint.initial_gates is not None:
        adapter.start = {"prefix": checkpoint.initial_prefix, "gates": checkpoint.initial_gates}
    adapter.loaded_from = _file(checkpoint.source, checkpoint.sha256)
    return adapter


def _file(source: str | Path, digest: str) -> dict[str, str]:
    return {"source": str(source), "sha256": digest}


def _fill(adapter: Adapter, tensors: dict[str, torch.Tensor], path: object) -> None:
    """Raises CheckpointError where names or shapes differ from what the adapter on this model has."""
    own = adapter.state_dict()
    wrong = [
        f"{name} {tuple(tensors[name].shape) if name in tensors else 'missing'}, here {tuple(own[name].shape)}"
        for name in own
        if name not in tensors or tensors[name].shape != own[name].shape
    ]
    if wrong or set(tensors) - set(own):
        extra = f"; unknown: {', '.join(sorted(set(tensors) - set(own))[:3])}" if set(tensors) - set(own) else ""
        raise CheckpointError(
            path,
            f"does not fit this model: {'; '.join(wrong[:3])}{extra}; expected an adapter of a base of these sizes",
        )
    adapter.load_state_dict(tensors)
