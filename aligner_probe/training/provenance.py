"""What made an adapter: all options, seeds, hashes and versions, in one dictionary that can be written as JSON."""

import hashlib
import json
import platform
from dataclasses import dataclass
from typing import Any

import torch

from aligner_probe.adapters.adapter import Adapter, attached_to
from aligner_probe.fingerprints import fingerprint
from aligner_probe.models import architecture_of, device_of, dtype_of, quantization_in
from aligner_probe.tasks.chat_template import are_chat, template_of
from aligner_probe.tasks.encoding import Encoded
from aligner_probe.tasks.task import Task
from aligner_probe.training.recipe import Recipe
from aligner_probe.versions import git_state, versions

PACKAGES = ("torch", "transformers", "transformer-lens", "tokenizers", "safetensors")


@dataclass(frozen=True, eq=False)
class EncodedTask:
    """A task with its encoded examples and the SHA-256 of all their tokens (`tokens_hash`)."""

    task: Task
    encoded: Encoded
    tokens_sha256: str


def provenance(
    adapter: Adapter,
    recipe: Recipe,
    task: EncodedTask,
    validation: EncodedTask | None,
    execution: dict[str, Any],
) -> dict[str, Any]:
    """What is known before the first step, as a dictionary that JSON takes.

    `execution` says how the training is executed (whether lower layers are kept, and so on). In the result,
    `began_from` is None where the adapter's own seed drew its parameters; otherwise it names the file that they were
    loaded from and the training that made them. `beside` lists other adapters that are attached to the base model. The
    tokenizer's `chat_template` is the hash of the template that wrote the conversations, None where prompts are texts.
    """
    model = adapter.model
    device = device_of(model)
    loaded, trained = adapter.loaded_from, adapter.provenance
    return {
        "method": adapter.method,
        "options": adapter.config.to_dict(),
        "n_parameters": adapter.n_parameters,
        "recipe": recipe.to_dict(),
        "seeds": {"start": adapter.config.seed, "order": recipe.seed},
        "began_from": {"file": loaded, "run": trained} if loaded or trained else None,
        "beside": [_beside(other) for other in attached_to(model)],
        "base": {
            "name": model.cfg.model_name,
            "architecture": architecture_of(model),
            "fingerprint": fingerprint(model),
            "dtype": str(dtype_of(model)).removeprefix("torch."),
            "quantization": quantization_in(model),
        },
        "tokenizer": {
            "class": type(model.tokenizer).__name__,
            "sha256": tokenizer_hash(model.tokenizer),
            "chat_template": template_of(model.tokenizer).sha256 if are_chat(task.task.prompts) else None,
        },
        "task": _data(task),
        "validation": None if validation is None else _data(validation),
        "execution": {
            "device": _name_of(device),
            "threads": torch.get_num_threads(),
            **execution,
        },
        "versions": versions(PACKAGES),
        "git": git_state(),
    }


def _name_of(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} ({platform.machine()})"


def _beside(adapter: Adapter) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, tensor in adapter.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return {"method": adapter.method, "options": adapter.config.to_dict(), "sha256": digest.hexdigest()}


def tokenizer_hash(tokenizer: Any) -> str | None:
    """SHA-256 of a fast tokenizer's own JSON, otherwise of its vocabulary; None where a tokenizer has neither."""
    if hasattr(tokenizer, "backend_tokenizer"):
        content = tokenizer.backend_tokenizer.to_str()
    elif hasattr(tokenizer, "get_vocab"):
        content = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    else:
        return None
    return hashlib.sha256(content.encode()).hexdigest()


def tokens_hash(encoded: Encoded) -> str:
    """SHA-256 of all token ids and labels: exactly what is trained on, whatever file, split or template gave them."""
    digest = hashlib.sha256(encoded.kind.encode())
    for row in [*encoded.sequences, *(encoded.rejected or ())]:
        digest.update(torch.stack([row.input_ids, row.labels]).numpy().tobytes())
        digest.update(len(row).to_bytes(8))
    return digest.hexdigest()


def _data(data: EncodedTask) -> dict[str, Any]:
    task, encoded = data.task, data.encoded
    return {
        "name": task.name,
        "kind": task.kind,
        "source": task.source,
        "format": task.format,
        "template": task.template,
        "sha256": task.sha256,
        "tokens_sha256": data.tokens_sha256,
        "n_examples": len(encoded),
        "encoding": encoded.rule,
        "dropped": task.dropped_note,
        "ignored_fields": list(task.ignored_fields),
        "notes": list(task.notes),
        "lost": encoded.lost,
    }
