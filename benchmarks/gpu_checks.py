"""What on_gpu.py checks: numerics against the CPU, training and resuming, hook points, and a probe of the micro-world.

Every function takes a device and returns numbers. A check is a number with the bound that it has to keep.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BASE, TASK = "microworld", "panel:style_pirate"
#: Of the first values of all adapters, of what opens them, and of the order of the examples.
SEED = 0
#: The bounds: a share of the largest logit, a share of the gradient's norm, and nats a token. That for float32 is the
#: project's goal. Those for bfloat16, whose mantissa has 8 bits, are about three times what a CPU gives (0.023, 0.0105
#: and, in 12 steps, 0.035).
FLOAT32 = {"logits": 1e-4, "gradient": 1e-4, "loss": 1e-4}
BFLOAT16 = {"logits": 0.07, "gradient": 0.03, "loss": 0.1}
#: How far the parameters of a resumed training may be from those of one without a break, as a share of their norm. On a
#: GPU a sum may be taken in another order the second time.
RESUMED = 1e-3


@dataclass(frozen=True)
class Check:
    """A number, the most that it may be, and whether it is."""

    name: str
    value: float
    bound: float

    @property
    def passed(self) -> bool:
        """False for a value that is not a number, too."""
        return self.value <= self.bound

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "value": self.value, "bound": self.bound, "passed": self.passed}


def opened(adapter):
    """The adapter with gates and LoRA's B drawn, so that it has an effect and its gradients are not zero."""
    import torch

    draw = torch.Generator().manual_seed(SEED + 1)
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if name == "gates" or name.startswith("B."):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=draw))
    return adapter


def makers() -> dict[str, Callable[[Any], Any]]:
    """The adapters that are checked."""
    import aligner_probe as ap

    return {
        "Aligner-1": lambda model: opened(ap.Aligner(model, 1, seed=SEED)),
        "Aligner-10": lambda model: opened(ap.Aligner(model, 10, seed=SEED)),
        "LoRA": lambda model: opened(ap.LoRA(model, 8, seed=SEED)),
    }


def task_of(n: int):
    """The first examples of the task, and as many others."""
    import aligner_probe as ap

    train = ap.load_task(TASK)
    return tuple(replace(train, examples=train.examples[start : start + n]) for start in (0, n))


def outputs(device: str, dtype: str) -> dict[str, dict[str, Any]]:
    """By adapter: logits, and the gradient of their cross-entropy, for fixed tokens; in float32 on the CPU."""
    import torch

    import aligner_probe as ap

    model = ap.load_model(BASE, dtype=dtype, device=device)
    ids = torch.randint(3, model.cfg.d_vocab, (4, 48), generator=torch.Generator().manual_seed(SEED)).to(device)
    found = {}
    for name, make in makers().items():
        adapter = make(model)
        with adapter.attached():
            logits = model(ids, use_cache=False)
            torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten()).backward()
        gradient = torch.cat([p.grad.float().flatten().cpu() for p in adapter.parameters() if p.grad is not None])
        found[name] = {"logits": logits.detach().float().cpu(), "gradient": gradient}
    return found


def losses(device: str, dtype: str, steps: int) -> dict[str, Any]:
    """By adapter, the loss of each step of a short training, in nats a token."""
    import aligner_probe as ap

    model = ap.load_model(BASE, dtype=dtype, device=device)
    train, _ = task_of(48)
    how = ap.recipe("corrected", steps=steps, batch_size=8, seed=SEED)
    return {
        name: ap.fit(model, make(model), train, recipe=how, show_progress=False).loss.dropna().to_numpy()
        for name, make in makers().items()
    }


def numerics(device: str, steps: int) -> Iterator[Check]:
    """float32 on the device against the CPU, then bfloat16 against float32, both on the device."""
    import numpy as np

    ways = {
        "float32 on the CPU": ("cpu", "float32"),
        "float32": (device, "float32"),
        "bfloat16": (device, "bfloat16"),
    }
    made = {way: (outputs(*where), losses(*where, steps)) for way, where in ways.items()}
    for one, other, bounds in (("float32", "float32 on the CPU", FLOAT32), ("bfloat16", "float32", BFLOAT16)):
        for name in makers():
            ours, theirs = made[one][0][name], made[other][0][name]
            scales = {"logits": theirs["logits"].abs().max(), "gradient": theirs["gradient"].norm()}
            differences = {
                "logits": (ours["logits"] - theirs["logits"]).abs().max(),
                "gradient": (ours["gradient"] - theirs["gradient"]).norm(),
            }
            for what, scale in scales.items():
                yield Check(f"{name}: {what}, {one} against {other}", float(differences[what] / scale), bounds[what])
            difference = float(np.abs(made[one][1][name] - made[other][1][name]).max())
            yield Check(f"{name}: loss in {steps} steps, {one} against {other}", difference, bounds["loss"])


def training(device: str, steps: int) -> Iterator[Check]:
    """A training that is broken off and resumed, against one without a break; and its answers with a cache."""
    import torch

    import aligner_probe as ap
    from aligner_probe.evaluation.generation import generate_ids
    from aligner_probe.training import Callback

    class Stopped(Exception):
        pass

    class Stops(Callback):
        def stepped(self, row: dict[str, Any]) -> None:
            if row["step"] == steps // 2 + 1:
                raise Stopped

    model = ap.load_model(BASE, device=device)
    train, validation = task_of(48)
    how = ap.recipe("corrected", steps=steps, batch_size=8, seed=SEED, evaluate_every=max(1, steps // 2))
    options = {"validation": validation, "recipe": how, "show_progress": False}
    for name, make in makers().items():
        whole = ap.fit(model, make(model), train, **options)
        with tempfile.TemporaryDirectory() as folder:
            out = {"out": Path(folder) / "run", "save_every": 1}
            with suppress(Stopped):
                ap.fit(model, make(model), train, callbacks=[Stops()], **out, **options)
            resumed = ap.fit(model, make(model), train, resume=True, **out, **options)
        ours, theirs = (torch.cat([p.detach().flatten() for p in r.adapter.parameters()]) for r in (resumed, whole))
        yield Check(
            f"{name}: parameters, resumed against whole", float((ours - theirs).norm() / theirs.norm()), RESUMED
        )
        fell = whole.validation_loss.dropna()
        yield Check(f"{name}: validation loss at the end, against the start", float(fell.iloc[-1] / fell.iloc[0]), 1.0)
        prompts = [model.tokenizer(prompt)["input_ids"] for prompt in train.prompts[:8]]
        with whole.adapter.attached(), torch.no_grad():
            answers = generate_ids(model, prompts, max_new_tokens=12)
            wrong = 0
            for prompt, answer in zip(prompts, answers, strict=True):
                logits = model(torch.tensor([prompt + answer], device=device), use_cache=False)[0]
                wrong += int((logits[len(prompt) - 1 : -1].argmax(-1).cpu() != torch.tensor(answer)).sum())
        # A tie between two tokens may fall otherwise where a product has another shape.
        yield Check(f"{name}: answers' tokens that differ without a cache, of {12 * len(prompts)}", float(wrong), 1.0)


def hook_points(device: str) -> Iterator[Check]:
    """What all hook points see with the fast attention, against TransformerLens's own components."""
    import torch

    import aligner_probe as ap

    seen = []
    for fast in (True, False):
        model = ap.load_model(BASE, device=device, fast=fast)
        ids = torch.randint(3, model.cfg.d_vocab, (2, 24), generator=torch.Generator().manual_seed(SEED)).to(device)
        with torch.no_grad():
            logits, cache = model.run_with_cache(ids)
        seen.append({"logits": logits} | dict(cache.items()))
    fast, own = seen
    yield Check(f"hook points that only one of both has, of {len(own)}", float(len(set(fast) ^ set(own))), 0.0)
    shared = [name for name in own if name in fast and own[name].is_floating_point()]
    differing = {name: _apart(fast[name], own[name]) for name in shared}
    worst = max(differing, key=lambda name: differing[name])
    yield Check(f"largest difference at a hook point ({worst}), of {len(shared)}", differing[worst], 1e-4)


def _apart(ours, theirs) -> float:
    """The largest difference of two tensors over the largest value; infinite where shapes differ."""
    import torch

    if ours.shape != theirs.shape:
        return float("inf")
    finite = torch.isfinite(theirs)  # scores of hidden positions are -inf
    if not torch.equal(finite, torch.isfinite(ours)):
        return float("inf")
    return float((ours[finite] - theirs[finite]).abs().max() / theirs[finite].abs().max().clamp(min=1e-6))


def probe(device: str, steps: int, n_items: int) -> dict[str, Any]:
    """A probe of the micro-world with few steps: its verdict, how many runs it made, and its scores."""
    from aligner_probe.probing.inputs import load_parts
    from aligner_probe.probing.plan import BUDGETS
    from aligner_probe.probing.probe import carry_out_probe, new_probe, with_batches

    few = {"n_validation": n_items, "n_train_asked": n_items, "n_off_domain": n_items, "shots": (1,)}
    budget = replace(
        BUDGETS["quick"], seeds=((SEED, SEED + 1),), steps=steps, reference_steps=steps, evaluate_every=steps, **few
    )
    given = load_parts(TASK)
    test = None if given.test is None else replace(given.test, examples=given.test.examples[:n_items])
    made = with_batches(
        new_probe(
            BASE, given.train, test=test, validation=given.validation, kind=given.kind, budget=budget, device=device
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        report = carry_out_probe(made, folder, show_progress=False).report
    return {
        "task": TASK,
        "steps": steps,
        "verdict": report["verdict"],
        "reason": report["reason"],
        "runs": len(report["runs"]),
        "together": max(cell.together for cell in made.plan.cells),
    }
