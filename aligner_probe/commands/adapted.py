"""A base model with adapters, as commands are told of them; shared by `generate` and `evaluate benchmark`."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aligner_probe.commands.options import Group, add_quantization, add_threads

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from aligner_probe.adapters.adapter import Adapter


def add_computation(parser: Group) -> None:
    """Add the options of how the base model is read and computed."""
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="of the base model (default: float32)",
    )
    parser.add_argument("--device", help="for instance cuda (default: cpu)")
    add_quantization(parser)
    add_threads(parser)


def load_adapted(
    options: argparse.Namespace, names: Sequence[str]
) -> "tuple[TransformerBridge, dict[str, Adapter | None]]":
    """The base model with its chat template, and its adapters by name; None for the base model alone.

    `names` are those of the adapters, in order. If there is one more, it is the first and that of the base model.
    """
    import torch

    from aligner_probe.checkpoints.adapters import load_adapter
    from aligner_probe.models import load_model
    from aligner_probe.tasks.given_template import set_chat_template, template_given

    template = template_given(options.chat_template)
    reading = {"dtype": getattr(torch, options.dtype), "device": options.device, "quantization": options.quantization}
    model = load_model(options.model, **reading)
    if template is not None:
        set_chat_template(model, template or None)
    loaded = [
        load_adapter(path, model, force=options.force, gate=options.gate, adapter_length=options.adapter_length)
        for path in options.adapter
    ]
    of_base = [None] * (len(names) - len(loaded))
    return model, dict(zip(names, [*of_base, *loaded], strict=True))
