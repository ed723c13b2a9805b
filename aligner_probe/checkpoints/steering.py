"""Steering vectors: an adapter that adds a constant, written as one vector for each layer.

The folder has two files. `steering.safetensors` holds a vector (d_model,) by TransformerLens hook name. `steering.json`
names the module of each vector for TransformerLens and for Hugging Face, and shows how to apply it.

Each vector is added at every position to the output of the attention output projection, before any other part of the
layer reads it. Most steering tools (llama.cpp's control vectors, and those of vLLM) instead add to the output of the
whole layer, so that the layer's own MLP does not see the vector. The two are the same only where attention and MLP work
side by side, as in GPT-NeoX.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from aligner_probe.checkpoints import native
from aligner_probe.checkpoints.containers import read_tensors
from aligner_probe.checkpoints.format import CheckpointFormat, Consumer, KnownBase
from aligner_probe.errors import CheckpointError
from aligner_probe.families import family_of
from aligner_probe.files import whole

VECTORS, SPECIFICATION = "steering.safetensors", "steering.json"
FORMAT_NAME = "aligner_probe steering"
FORMAT_VERSION = 1
HOOK = "blocks.{layer}.attn.hook_out"
WHAT = (
    "One vector a layer, added at every position to the output of the attention output projection, before any norm "
    "and before the sum with the residual stream."
)
IN_SEQUENCE = (
    "Not the same as adding it to the layer's output (control vectors): the layer's own MLP would not see the vector."
)
IN_PARALLEL = (
    "Attention and MLP work side by side in this model, so adding the vector to the layer's output (control vectors) "
    "is the same thing."
)
USAGE = {
    "transformer_lens": [
        "from safetensors.torch import load_file",
        f"vectors = load_file(folder + '/{VECTORS}')",
        "hooks = [(name, lambda out, hook, v=v: out + v.to(out)) for name, v in vectors.items()]",
        "logits = model.run_with_hooks(tokens, fwd_hooks=hooks)",
    ],
    "transformers": [
        "import json",
        "from safetensors.torch import load_file",
        f"vectors = load_file(folder + '/{VECTORS}')",
        f"for layer in json.load(open(folder + '/{SPECIFICATION}'))['layers']:",
        "    v = vectors[layer['hook']]",
        "    module = model.get_submodule(layer['module'])",
        "    module.register_forward_hook(lambda module, inputs, out, v=v: out + v.to(out))",
    ],
    "vllm": [
        "Not tested here. vLLM names its modules as Hugging Face does; they return (output, bias), so a forward hook",
        "adds to the first. Control vectors at layer outputs are another thing (layer_output). A merged model",
        "(--to merged) is a plain one and needs no hooks.",
    ],
}


@dataclass(frozen=True, eq=False)
class ConstantShifts:
    """An adapter that adds a constant: one vector for each adapted layer, by layer index.

    The vector is added to the output of the layer's attention output projection. `origin` is
    a JSON object that describes the source of the adapter.
    """

    vectors: dict[int, Float[Tensor, " d_model"]]
    origin: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Steering:
    """A steering folder that was read: vectors by TransformerLens hook name, and the content of steering.json."""

    vectors: dict[str, Float[Tensor, " d_model"]]
    specification: dict[str, Any]


def write(shifts: ConstantShifts, folder: str | Path, base: KnownBase) -> Path:
    """Write both files, with the vectors in float32.

    Args:
        shifts: The vectors and where they come from.
        folder: A new folder.
        base: The base model; its architecture and its configuration must be known.

    Raises:
        AlignerProbeError: The folder exists or cannot be written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    family = family_of(base.architecture)
    layers = [
        {
            "layer": layer,
            "hook": HOOK.format(layer=layer),
            "module": family.module(layer, "o"),
            "norm": round(float(shift.norm()), 6),
        }
        for layer, shift in sorted(shifts.vectors.items())
    ]
    specification = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "what": WHAT,
        "layer_output": IN_PARALLEL if family.is_parallel(base.config) else IN_SEQUENCE,
        "vectors": VECTORS,
        "architecture": base.architecture,
        "d_model": len(next(iter(shifts.vectors.values()))),
        "coefficient": 1.0,
        "layers": layers,
        "usage": USAGE,
        "origin": shifts.origin,
    }
    vectors = {HOOK.format(layer=layer): shift.float().contiguous() for layer, shift in shifts.vectors.items()}
    with whole(folder) as new:
        new.mkdir()
        (new / VECTORS).write_bytes(save(vectors))
        (new / SPECIFICATION).write_text(json.dumps(specification, indent=2) + "\n", encoding="utf-8")
    return folder


def read(folder: str | Path) -> Steering:
    """Read a steering folder. Raises CheckpointError if it is none, or if its two files contradict each other."""
    folder = Path(folder)
    specification = native.read_json(folder / SPECIFICATION)
    if specification is None or specification.get("format") != FORMAT_NAME:
        raise CheckpointError(folder, f"is no steering folder; expected {SPECIFICATION} with format {FORMAT_NAME!r}")
    if specification.get("format_version") != FORMAT_VERSION:
        version = specification.get("format_version")
        raise CheckpointError(folder, f"has format_version {version!r}; this release reads {FORMAT_VERSION}")
    vectors = read_tensors(folder / VECTORS)
    named = [layer.get("hook") for layer in specification.get("layers", []) if isinstance(layer, dict)]
    if sorted(vectors) != sorted(map(str, named)):
        raise CheckpointError(folder, f"{SPECIFICATION} names {len(named)} hooks, not the {len(vectors)} of {VECTORS}")
    shape = (specification.get("d_model"),)
    if any(tuple(vector.shape) != shape for vector in vectors.values()):
        raise CheckpointError(folder, f"has vectors that are not of d_model {shape[0]!r}; one file is from elsewhere")
    return Steering(vectors, specification)


def _load(folder: Path, base: Any) -> Any:
    """A base model with forward hooks in place, by the lines that steering.json gives for transformers."""
    exec("\n".join(USAGE["transformers"]), {"folder": str(folder), "model": base})
    return base


FORMAT = CheckpointFormat(
    name="steering vectors",
    holds=ConstantShifts,
    recognises=lambda stored: False,
    export_name="steering",
    write=write,
    notes=lambda shifts, base: [WHAT],
    consumer=Consumer("transformers with forward hooks", "transformers", _load),
)
