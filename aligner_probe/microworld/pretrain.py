"""The training of the micro-world's base model: a small Llama, from nothing but the seed.

Muon (torch.optim.Muon) updates the hidden matrices, AdamW the embeddings and norms. The learning rate rises, stays
constant, and falls to zero. A run that is killed and resumed makes the same steps.
"""

import json
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from aligner_probe.errors import AlignerProbeError
from aligner_probe.files import sha256, staging_folder, write_text, writing_to
from aligner_probe.microworld import vocabulary
from aligner_probe.microworld.batches import Batch, EncodedCorpus, epochs
from aligner_probe.microworld.corpus import N_DOCUMENTS, Writer
from aligner_probe.microworld.world import World
from aligner_probe.threads import as_begun, threads_of_size, using
from aligner_probe.training.state import RunFolder
from aligner_probe.versions import versions

SAVE_EVERY = 200


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """All options that decide the weights. Lengths are in optimiser steps. The batch size is in tokens, padding
    included.
    """

    seed: int = 0
    n_documents: int = N_DOCUMENTS
    n_epochs: int = 1
    batch_tokens: int = 4096
    muon_lr: float = 0.01
    adam_lr: float = 3e-3
    weight_decay: float = 0.05
    warmup: int = 100
    #: Share of all steps over which the learning rate falls.
    decay: float = 0.6
    clip: float = 1.0
    d_model: int = 128
    d_mlp: int = 352
    n_layers: int = 8
    n_heads: int = 8

    def __post_init__(self) -> None:
        for name in ("n_documents", "n_epochs", "batch_tokens", "d_model", "n_layers", "n_heads"):
            if getattr(self, name) < 1:
                raise AlignerProbeError(f"{name} {getattr(self, name)}; expected 1 or more")

    def rate(self, step: int, n_steps: int) -> float:
        """The share of the full learning rate at step 1, 2, ..."""
        left = (n_steps - step) / max(1.0, self.decay * n_steps)
        return min(1.0, step / max(1, self.warmup), max(0.01, left))


def new_model(config: Pretraining, n_vocabulary: int) -> LlamaForCausalLM:
    """An untrained Llama whose weights are drawn from the seed."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=n_vocabulary,
                hidden_size=config.d_model,
                intermediate_size=config.d_mlp,
                num_hidden_layers=config.n_layers,
                num_attention_heads=config.n_heads,
                num_key_value_heads=config.n_heads,
                max_position_embeddings=vocabulary.CONTEXT,
                tie_word_embeddings=True,
                rms_norm_eps=1e-5,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        )


def loss_of(model: nn.Module, batch: Batch) -> Float[Tensor, ""]:
    """The weighted mean of the next-token cross-entropy. Padding is on the right, which causal attention ignores."""
    logits = model(batch.ids, use_cache=False).logits[:, :-1]
    each = F.cross_entropy(logits.flatten(0, 1), batch.ids[:, 1:].flatten(), reduction="none")
    weights = batch.weights[:, 1:].flatten()
    return (each * weights).sum() / weights.sum()


def pretrain(
    out: Path, config: Pretraining, *, work: Path, device: str = "cpu", resume: bool = False, steps: int | None = None
) -> bool:
    """Train the base and write it to `out` as plain Hugging Face files with their provenance; whether it got there.

    `work` keeps metrics and state, from which `resume` goes on; `steps` stops early (the schedule stays that of the
    whole), leaving the state and writing no model. Raises AlignerProbeError where `work` holds another run, or a file
    cannot be written.
    """
    world = World.from_seed(config.seed)
    identity = {"pretraining": asdict(config)}
    folder = RunFolder(work, identity, resume=resume)
    with folder.locked():
        trainer = _Trainer(world, config, device)
        threads = threads_of_size(sum(p.numel() for p in trainer.model.parameters()), torch.device(device).type)
        if folder.loaded is not None:
            threads = as_begun(threads, folder.loaded.get("threads"))
        tqdm.write(f"threads: {threads}")
        with using(threads):
            finished = trainer.run(folder, steps)
        if finished:
            save(trainer.model, world, out, config, folder.metrics)
    return finished


class _Trainer:
    def __init__(self, world: World, config: Pretraining, device: str):
        self.config, self.device = config, device
        entries = {piece: index for index, piece in enumerate(vocabulary.vocabulary(world))}
        writer = Writer(world, config.seed)
        self.corpus = EncodedCorpus.of(
            iter(tqdm(writer.documents(config.n_documents), "corpus", config.n_documents)), entries
        )
        self.model = new_model(config, len(entries))
        # The stubs of transformers lose `self` in the decorator of `to`.
        self.model.to(device)  # pyright: ignore[reportArgumentType]
        matrices = [p for n, p in self.model.named_parameters() if p.ndim == 2 and "embed" not in n]
        others = [p for n, p in self.model.named_parameters() if p.ndim != 2 or "embed" in n]
        self.optimizers = [
            torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=config.weight_decay),
            torch.optim.AdamW(others, lr=config.adam_lr, betas=(0.9, 0.98), weight_decay=0.0),
        ]
        self.plan = list(epochs(self.corpus, config.n_epochs, config.seed, config.batch_tokens))

    def run(self, folder: RunFolder, steps: int | None) -> bool:
        """Whether the end of the schedule was reached."""
        done = 0
        if folder.loaded is not None:
            with folder.restoring():
                done = folder.loaded["step"]
                self.model.load_state_dict(folder.loaded["model"])
                for optimizer, state in zip(self.optimizers, folder.loaded["optimizers"], strict=True):
                    optimizer.load_state_dict(state)
        last = len(self.plan) if steps is None else min(steps, len(self.plan))
        bar = tqdm(total=len(self.plan), initial=done, desc="pretraining")
        with bar:
            for step, documents in enumerate(islice(self.plan, done, last), start=done + 1):
                row = self._step(step, documents)
                folder.record(row)
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", tokens_per_s=f"{row['tokens_per_second']:.0f}")
                if step % SAVE_EVERY == 0 or step == last:
                    folder.save(self._state(step))
        return last == len(self.plan)

    def _step(self, step: int, documents: list[int]) -> dict[str, Any]:
        began = time.perf_counter()
        config = self.config
        rate = config.rate(step, len(self.plan))
        for optimizer, lr in zip(self.optimizers, (config.muon_lr, config.adam_lr), strict=True):
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
        batch = self.corpus.batch(documents)
        loss = loss_of(self.model, Batch(batch.ids.to(self.device), batch.weights.to(self.device)))
        if not torch.isfinite(loss):
            raise AlignerProbeError(f"the loss is {float(loss)} at step {step}, so pretraining stops; lower muon_lr")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        for optimizer in self.optimizers:
            optimizer.step()
        seconds = time.perf_counter() - began
        return {"step": step, "loss": float(loss.detach()), "tokens_per_second": batch.ids.numel() / seconds}

    def _state(self, step: int) -> dict[str, Any]:
        return {
            "step": step,
            "threads": torch.get_num_threads(),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }


def save(model: LlamaForCausalLM, world: World, out: Path, config: Pretraining, metrics: list[dict[str, Any]]) -> None:
    """Model, tokenizer and provenance; the folder's files are replaced together or not at all."""
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with staging_folder(out.parent) as stage:
            model.cpu().eval().save_pretrained(stage)
            vocabulary.save(world, stage)
            provenance = {
                "pretraining": asdict(config),
                "steps": len(metrics),
                "final_loss": sum(row["loss"] for row in metrics[-100:]) / max(1, len(metrics[-100:])),
                "versions": versions(["torch", "transformers", "tokenizers", "safetensors"]),
                "sha256": {file.name: sha256(file) for file in sorted(stage.iterdir())},
            }
            write_text(stage / "provenance.json", json.dumps(provenance, indent=2, sort_keys=True) + "\n")
            for file in sorted(stage.iterdir()):
                file.replace(out / file.name)
