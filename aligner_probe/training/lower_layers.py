"""Layers below an adapter's first one give the same output in every step: it is computed once for all examples.

    kept = LowerLayers(model, sequences, layer=2)         # one forward pass of two layers, without gradients
    with entering_at(model, 2, kept.residual([5, 8])):    # training/blocks.py
        model(ids, attention_mask=mask)

What is kept is the residual stream that enters `layer`, for every token. It lies in a memory-mapped file that goes with
the object or, with `folder`, in a file that stays for other trainings and processes. The name and the end of that file
are a hash of everything that its values depend on, so a wrong file is never read. Sequences are computed in batches by
length, not in the order in which they are trained on, so the values are the same for every training. They may differ in
the last bits from those of a training batch, because matrix products of other shapes round differently. That is why a
resumed training must keep lower layers as it did before.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter, attached_to
from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import free_bytes, staging_folder, writing_to
from aligner_probe.models import device_of, dtype_of, fingerprint
from aligner_probe.training import below
from aligner_probe.training.blocks import entrance_of
from aligner_probe.training.sequences import Sequences
from aligner_probe.versions import versions

Cache = Literal["auto"] | bool

#: What "auto" allows a run to keep: two million tokens of 256 numbers, or a quarter of a million of 4096 in bfloat16.
BUDGET_BYTES = 2 * 2**30
#: Sequences a batch while computing.
BATCH = 32
SUFFIX = ".lower_layers"


@dataclass(frozen=True)
class CachePlan:
    """Whether the output of the lower layers is kept, how many bytes it takes, and the reason in words."""

    kept: bool
    n_bytes: int
    reason: str


def plan_cache(
    adapter: Adapter,
    n_tokens: int,
    passes: float,
    cache: Cache | str,
    budget: int = BUDGET_BYTES,
    folder: Path | None = None,
) -> CachePlan:
    """Decide whether the output of the layers below an adapter is kept.

    The decision is the same for every training with the same options, unless the disk is full.

    Args:
        adapter: layers below its first adapted layer are meant.
        n_tokens: the tokens of all sequences.
        passes: how often each example is trained on, on average.
        cache: what the user asks for: True, False or "auto".
        budget: the most bytes that may be kept.
        folder: where a new file would lie, for the free space there; None leaves that out.

    Raises AlignerProbeError where `cache` is True and the layers cannot be kept.
    """
    start = adapter.layers.start
    n_bytes = n_tokens * adapter.shape.d_model * dtype_of(adapter.model).itemsize
    obstacle = _obstacle(adapter, start)
    if obstacle is None and n_bytes > budget:
        obstacle = f"keeping {n_tokens:,} tokens takes {n_bytes:,} bytes, over the budget of {budget:,}"
    if obstacle is None and folder is not None and n_bytes > (free := free_bytes(folder)):
        obstacle = f"keeping {n_tokens:,} tokens takes {n_bytes:,} bytes, and {folder} has {free:,} left"
    if cache is True and obstacle is not None:
        raise AlignerProbeError(
            f"lower layers cannot be kept: {obstacle}; leave it to cache='auto' (--cache auto), name a greater "
            "cache_budget, or make room"
        )
    if cache is False:
        return CachePlan(False, n_bytes, "switched off")
    if obstacle is None and cache == "auto" and passes < 1:
        obstacle = f"examples are trained on {passes:.2g} times each, so keeping costs more than it saves"
    if obstacle is not None:
        return CachePlan(False, n_bytes, obstacle)
    return CachePlan(True, n_bytes, f"layers below {start} are computed once, {n_bytes / 2**20:.1f} MiB kept")


def _obstacle(adapter: Adapter, start: int) -> str | None:
    if start == 0:
        return f"this {adapter.method} works from layer 0 on, so no layer stays as it was"
    if attached_to(adapter.model):
        return "another adapter is attached, which may change lower layers"
    return below.obstacle(adapter.model, start)


class LowerLayers:
    """The residual stream that enters block `layer`, for every token of fixed sequences.

    It is computed when the object is made, unless `folder` holds it already. Raises AlignerProbeError if it cannot be
    written.
    """

    def __init__(
        self,
        model: TransformerBridge,
        sequences: Sequences,
        layer: int,
        folder: str | Path | None = None,
        *,
        scratch: Path | None = None,
        show_progress: bool = False,
    ):
        self.model, self.sequences, self.layer = model, sequences, layer
        self.device = device_of(model)
        self._weights = below.weights(model, layer)
        self.key = _key(model, sequences, layer)
        self._shape = (len(sequences.ids), model.cfg.d_model)
        self._dtype = dtype_of(model)
        if folder is None:
            # Mapped, then unlinked: however the process ends, nothing is left.
            with writing_to(Path(scratch or tempfile.gettempdir())), tempfile.NamedTemporaryFile(dir=scratch) as file:
                self._compute(model, Path(file.name), show_progress)
                self._packed = self._mapped(Path(file.name))
            return
        folder = Path(folder)
        path = folder / f"{self.key}{SUFFIX}"
        if not self._is_whole(path):
            with writing_to(folder):
                folder.mkdir(parents=True, exist_ok=True)
                with staging_folder(folder) as stage:
                    self._compute(model, stage / path.name, show_progress)
                    (stage / path.name).replace(path)
        self._packed = self._mapped(path)

    @property
    def n_bytes(self) -> int:
        return self._shape[0] * self._shape[1] * self._dtype.itemsize

    def outdated(self) -> str | None:
        """Why the lower layers may now give another output than the one that is kept, in words; None if they give the
        same.

        A callback may hook something to these layers, or change their weights, during a training.
        """
        changed = below.weights(self.model, self.layer) != self._weights
        return f"weights below layer {self.layer} were changed" if changed else below.obstacle(self.model, self.layer)

    def residual(self, indices: Sequence[int]) -> Float[Tensor, "batch pos d_model"]:
        """The input of block `layer` for a batch of these sequences, on the model's device, with zeros on padding."""
        return self.sequences.gather(self._packed, indices).to(self.device)

    def _compute(self, model: TransformerBridge, path: Path, show_progress: bool) -> None:
        order = self.sequences.lengths.argsort(stable=True).tolist()
        row_bytes = self._shape[1] * self._dtype.itemsize
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        with path.open("wb") as file, torch.no_grad():
            for picked in tqdm(batches, desc="lower layers", disable=not show_progress, leave=False):
                batch = {name: tensor.to(self.device) for name, tensor in self.sequences.batch(picked).items()}
                ids, mask = batch["input_ids"], batch["attention_mask"]
                found = entrance_of(model, self.layer, ids, attention_mask=mask, use_cache=False).cpu()
                for row, index in zip(found, picked, strict=True):
                    # Written, not mapped: a full disk is then an error, and no signal.
                    file.seek(int(self.sequences.offsets[index]) * row_bytes)
                    numbers = row[: int(self.sequences.lengths[index])].contiguous()
                    file.write(numbers.view(torch.uint8).numpy().data)
            file.seek(self.n_bytes)
            file.write(self.key.encode())

    def _mapped(self, path: Path) -> Float[Tensor, "packed d_model"]:
        size = self._shape[0] * self._shape[1]
        return torch.from_file(str(path), shared=False, size=size, dtype=self._dtype).view(self._shape)

    def _is_whole(self, path: Path) -> bool:
        if not path.is_file() or path.stat().st_size != self.n_bytes + len(self.key):
            return False
        with path.open("rb") as file:
            file.seek(-len(self.key), os.SEEK_END)
            return file.read() == self.key.encode()


def _key(model: TransformerBridge, sequences: Sequences, layer: int) -> str:
    """The SHA-256 of the base model, the layer, the tokens and everything else that the bits may depend on."""
    made_by = {
        "base": fingerprint(model),
        "layer": layer,
        "dtype": str(dtype_of(model)),
        "device": device_of(model).type,
        "attention": type(model.blocks[0].attn).__name__,
        "threads": torch.get_num_threads(),
        "versions": versions(["torch", "transformers", "transformer-lens"]),
        "pad": sequences.pad_id,
        "taken": "where the layer below ends",  # and not after hooks at the entrance, as older versions' files
        "autocast": torch.is_autocast_enabled(device_of(model).type),
    }
    if device_of(model).type == "cuda":
        made_by |= {
            "card": torch.cuda.get_device_name(device_of(model)),
            "float32": torch.get_float32_matmul_precision(),
        }
    digest = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode())
    for tensor in (sequences.lengths, sequences.ids):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
