"""What on_gpu.py times: a training step and a generation of Llamas of random weights, with their largest batch.

Steps are those of training_step.py, and its floor. A generation is greedy, with a cache; its floor is Hugging Face's
`generate` on the plain model. Every timing has one of the floor right before or after it, by chance (`setting.paired`).
"""

import gc
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from setting import Bases, Size, Times, paired, timed
from training_step import FLOOR, Variant, makers, peak_bytes

#: Batches are doubled up to the largest that fits. `batch` of a size is the most that is tried: the logits of all
#: positions, which the floor computes, then have up to 2^31 values.
SIZES = {
    "full": {
        "135M": Size(576, 30, 9, 1536, 49152, 64, 512, kv_heads=3, tied=True),  # SmolLM2-135M
        "1B": Size(2048, 16, 32, 8192, 128256, 32, 512, kv_heads=8, tied=True),  # Llama 3.2 1B
        "7B": Size(4096, 32, 32, 11008, 32000, 128, 512),  # Llama 2 7B
    },
    "tiny": {"tiny": Size(64, 6, 4, 128, 256, 4, 16)},
}
DTYPE = "bfloat16"
VARIANTS = (
    FLOOR,
    "Aligner-1",
    "Aligner-10",
    "LoRA r=8 (q, v)",
    "PEFT AdaptionPrompt-10",
    "PEFT LoRA r=8 (q, v)",
)
#: Of the timing of one model: the fewest and the most rounds.
FEWEST, MOST = 3, 20


def speed(device: str, size: str, seconds: float, new_tokens: int) -> list[dict[str, Any]]:
    """A row for each model and variant. Each model gets about an equal part of the seconds that are left."""
    rows, end = [], time.monotonic() + seconds
    for index, (name, its) in enumerate(SIZES[size].items()):
        left = (end - time.monotonic()) / (len(SIZES[size]) - index)
        rows += _of_model(name, its, device, left, new_tokens)
        _free(device)
    return rows


def _of_model(name: str, size: Size, device: str, seconds: float, new_tokens: int) -> list[dict[str, Any]]:
    end = time.monotonic() + seconds
    bases = Bases(size, device, DTYPE)
    largest = {variant: _largest_batch(bases, variant, size.batch) for variant in VARIANTS}
    batch = min(largest.values())
    steps, made, peaks = {}, {}, {}
    if batch:
        ids = bases.ids(batch, size.positions)
        make = makers(bases, ids)
        made = {variant: make[variant]() for variant in VARIANTS}
        for variant, one in made.items():
            with one.attached():
                one.step()
                peaks[variant] = peak_bytes(one.step, device)
        steps = _timed(made, lambda one: one.step, device, (end - time.monotonic()) * 0.6)
    prompt = bases.ids(1, 32)
    calls = {variant: _generation(variant, one, prompt, new_tokens) for variant, one in made.items()}
    for variant, call in calls.items():
        with made[variant].attached():
            assert len(call()) == new_tokens
    answers = _timed(made, lambda one: calls[_name(made, one)], device, end - time.monotonic())
    found = []
    for variant in VARIANTS:
        row = {
            "model": name,
            "n_parameters": bases.n_parameters,
            "dtype": DTYPE,
            "positions": size.positions,
            "batch": batch,
            "variant": variant,
            "largest_batch": largest[variant],
        }
        if batch:
            row |= {
                "n_trained": sum(p.numel() for p in made[variant].parameters),
                "peak_bytes": peaks[variant],
                "step": _said(steps, variant),
                "token": _said(answers, variant, new_tokens),
                "new_tokens": new_tokens,
            }
        found.append(row)
    return found


def _name(made: dict[str, Variant], one: Variant) -> str:
    return next(name for name, other in made.items() if other is one)


def _largest_batch(bases: Bases, variant: str, most: int) -> int:
    """The largest power of two of examples, up to `most`, whose step fits into the memory; 0 where none does."""
    import torch

    fits, batch = 0, 1
    while batch <= most:
        with suppress(torch.OutOfMemoryError):
            one = makers(bases, bases.ids(batch, bases.size.positions))[variant]()
            with one.attached():
                one.step()
                one.step()  # the first has no state of the optimiser yet
            fits = batch
        one = None
        _free(str(bases.device))
        if fits < batch:
            break
        batch *= 2
    return fits


def _free(device: str) -> None:
    import torch

    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def _timed(
    made: dict[str, Variant], of: Callable[[Variant], Callable[[], object]], device: str, seconds: float
) -> dict[str, Times]:
    """Paired times of all variants, in as many rounds as fit into the seconds."""

    def run(name: str) -> tuple[float, float]:
        with made[name].attached():
            return timed(of(made[name]), device)

    if not made:
        return {}
    one_round = 2 * sum(run(name)[0] for name in made)
    rounds = min(MOST, max(FEWEST, int(seconds / max(one_round, 1e-3))))
    return paired(made, FLOOR, rounds, run)


def _generation(variant: str, made: Variant, prompt, new: int) -> Callable[[], list[int]]:
    """Greedy generation of so many tokens: the package's for its own adapters, Hugging Face's for all others."""
    import torch

    from aligner_probe.evaluation.generation import generate_ids

    model: Any = made.model
    if variant == FLOOR or variant.startswith("PEFT"):
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}
        mask = torch.ones_like(prompt)
        return lambda: model.generate(input_ids=prompt, attention_mask=mask, **options)[0, prompt.shape[1] :].tolist()
    return lambda: generate_ids(model, [prompt[0].tolist()], max_new_tokens=new)[0]


def _said(times: dict[str, Times], variant: str, n: int = 1) -> dict[str, Any]:
    """The median of the milliseconds, and of the paired ratios with their quartiles; of the floor, all its times."""
    if variant == FLOOR:
        wall = [seconds for its in times.values() for seconds in its.floor_wall]
        return {"ms": 1000 * statistics.median(wall) / n, "ratio": [1.0, 1.0, 1.0], "rounds": len(wall)}
    its = times[variant]
    return {
        "ms": 1000 * statistics.median(its.wall) / n,
        "ratio": list(its.ratio("wall")),
        "rounds": len(its.wall),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| model | variant | trained | largest batch | step, ms | step / floor [quartiles] | peak GiB | token, ms "
        "| token / floor [quartiles] |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        if "step" not in row:
            lines.append(f"| {row['model']} | {row['variant']} | | {row['largest_batch']} | | | | | |")
            continue
        step, token = (
            "{:.2f} | {:.3f} [{:.3f}-{:.3f}]".format(row[what]["ms"], *row[what]["ratio"]) for what in ("step", "token")
        )
        lines.append(
            f"| {row['model']} | {row['variant']} | {row['n_trained']:,} | {row['largest_batch']} | {step} "
            f"| {row['peak_bytes'] / 2**30:.2f} | {token} |"
        )
    return "\n".join(lines)
