"""What a training step costs with each adapter, against the least that any adapter could cost.

    python benchmarks/training_step.py [--rounds 20] [--size small|medium] [--json FILE]

A step is forward, cross-entropy, backward and AdamW on the adapter's numbers, base frozen, one thread, float32. The
floor is the bare Hugging Face model with sdpa attention and one trained vector added to the input of the start layer's
o_proj: any method that trains something in that layer has this gradient to compute. Every round runs each variant once,
in a new random order, with a step of the floor of its own right before or after it, by chance; a variant's time is its
ratio to that step, so that what slows the machine for a while slows both. The floor is a variant too: what its row
differs from 1 by is noise.

Memory is the peak, within one step, of what torch's allocator handed out since the step began (allocator events of
torch.profiler): weights, optimiser state and data are outside, activations, gradients and temporaries inside. It is the
same on every run.
"""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

START_LAYER = 2
FLOOR = "floor: plain Hugging Face"
AGAIN = "floor, against itself"
SIZES = {
    # hidden, layers, heads, intermediate, vocabulary, batch, positions
    "small": (256, 6, 8, 688, 2048, 8, 128),
    "medium": (1024, 8, 16, 2752, 8192, 4, 256),
}


@dataclass
class Variant:
    """A model with something trained in it."""

    loss: Callable
    parameters: list
    attached: Callable[[], AbstractContextManager] = nullcontext
    optimiser: object = None

    def step(self) -> None:
        """One training step; gradients are given back at its end."""
        self.loss().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


@dataclass
class Row:
    """One variant's results: a number a round, and the floor's beside it."""

    name: str
    n_parameters: int
    peak_bytes: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    floor_wall: list[float] = field(default_factory=list)
    floor_cpu: list[float] = field(default_factory=list)


def variants(size: str) -> dict[str, Variant]:
    """Every variant on the same weights."""
    import peft
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from aligner_probe.adapters.lora import LoRA
    from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
    from aligner_probe.models import load_model

    hidden, n_layers, n_heads, intermediate, vocabulary, batch, positions = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        vocab_size=vocabulary,
        max_position_embeddings=positions,
        attn_implementation="sdpa",
    )
    weights = LlamaForCausalLM(config).state_dict()
    ids = torch.randint(0, vocabulary, (batch, positions))

    def plain():
        model = LlamaForCausalLM(config)
        model.load_state_dict(weights, assign=True)  # all share the weights, as they share what caches hold of them
        return model.requires_grad_(False).eval()

    def variant(model, parameters, attached=nullcontext) -> Variant:
        parameters = [p for p in parameters if p.requires_grad]

        def loss():
            logits = model(ids, use_cache=False)
            logits = getattr(logits, "logits", logits)
            return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())

        return Variant(loss, parameters, attached, torch.optim.AdamW(parameters, lr=1e-4))

    def floor() -> Variant:
        model, leaf = plain(), torch.nn.Parameter(torch.zeros(hidden))
        projection = model.model.layers[START_LAYER].self_attn.o_proj
        projection.register_forward_pre_hook(lambda module, inputs: (inputs[0] + leaf,))
        return variant(model, [leaf])

    def ours(bridge, adapter) -> Variant:
        return variant(bridge, adapter.parameters(), adapter.attached)

    def of_peft(peft_config) -> Variant:
        model = peft.get_peft_model(plain(), peft_config).eval()
        return variant(model, model.parameters())

    fast, slow = load_model(plain()), load_model(plain(), fast=False)
    return {
        FLOOR: floor(),
        AGAIN: floor(),
        "Aligner-1": ours(fast, Aligner(fast, 1, START_LAYER)),
        "Aligner-10": ours(fast, Aligner(fast, 10, START_LAYER)),
        "Aligner-100": ours(fast, Aligner(fast, 100, START_LAYER)),
        "LLaMA-Adapter-10": ours(fast, LLaMAAdapter(fast, 10, START_LAYER)),
        "LoRA r=8 (q, v)": ours(fast, LoRA(fast, 8)),
        "Aligner-1, no overlay": ours(slow, Aligner(slow, 1, START_LAYER)),
        "Aligner-10, no overlay": ours(slow, Aligner(slow, 10, START_LAYER)),
        "PEFT AdaptionPrompt-10": of_peft(
            peft.AdaptionPromptConfig(adapter_len=10, adapter_layers=n_layers - START_LAYER, task_type="CAUSAL_LM")
        ),
        "PEFT LoRA r=8 (q, v)": of_peft(
            peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        ),
    }


def peak_bytes(step: Callable[[], None]) -> int:
    """The most that was allocated at once during a call, over what was there before it."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    now = peak = 0
    for event in events:
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def timed(variant: Variant) -> tuple[float, float]:
    """Wall and processor time of one step."""
    with variant.attached():
        wall, cpu = time.perf_counter(), time.process_time()
        variant.step()
        return time.perf_counter() - wall, time.process_time() - cpu


def measure(size: str, rounds: int, only: str | None) -> list[Row]:
    """One warm-up and one profiled step each, then the rounds."""
    from tqdm.auto import tqdm

    wanted = (only or "").lower()
    chosen = {n: made for n, made in variants(size).items() if n in (FLOOR, AGAIN) or wanted in n.lower()}
    rows = {}
    for name, made in chosen.items():
        with made.attached():
            made.step()
            rows[name] = Row(name, sum(p.numel() for p in made.parameters), peak_bytes(made.step))
    order, chance = [name for name in chosen if name != FLOOR], random.Random(0)
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        chance.shuffle(order)
        for name in order:
            beside = [(name, ""), (FLOOR, "floor_")]
            chance.shuffle(beside)
            for run, prefix in beside:
                wall, cpu = timed(chosen[run])
                getattr(rows[name], f"{prefix}wall").append(wall)
                getattr(rows[name], f"{prefix}cpu").append(cpu)
    return list(rows.values())


def ratios(row: Row, clock: str) -> tuple[float, float, float]:
    """Median and quartiles of the ratio to the floor's step beside it."""
    paired = [mine / its for mine, its in zip(getattr(row, clock), getattr(row, f"floor_{clock}"), strict=True)]
    low, middle, high = statistics.quantiles(paired, n=4, method="inclusive") if len(paired) > 1 else paired * 3
    return middle, low, high


def table(rows: list[Row]) -> str:
    """The results as a Markdown table."""
    floor = rows[0]
    lines = [
        "| variant | trained | ms, median | wall / floor [quartiles] | CPU / floor [quartiles] | peak MiB (/ floor) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        memory = f"{row.peak_bytes / 2**20:.1f} ({row.peak_bytes / floor.peak_bytes:.3f})"
        if row is floor:  # every step of it, beside all others
            milliseconds, times = [ms for other in rows for ms in other.floor_wall], ["1", "1"]
        else:
            milliseconds = row.wall
            times = ["{:.3f} [{:.3f}-{:.3f}]".format(*ratios(row, clock)) for clock in ("wall", "cpu")]
        milliseconds = f"{1000 * statistics.median(milliseconds):.0f}"
        lines.append(f"| {row.name} | {row.n_parameters:,} | {milliseconds} | {' | '.join(times)} | {memory} |")
    return "\n".join(lines)


def machine() -> str:
    """Processor, cores, system and versions, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    said = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens", "peft"))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, of which one is used; "
        f"{platform.system()}; Python {platform.python_version()}, {said}; load averages at the end {load}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of a training step with each adapter, against the floor.")
    parser.add_argument("--rounds", type=int, default=20, help="times that each variant is run (default 20)")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", help="only variants whose name has this in it")
    parser.add_argument("--json", type=Path, help="write every single time there")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    # Before torch is imported, which reads it once.
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    rows = measure(options.size, options.rounds, options.only)
    hidden, n_layers, n_heads, _, vocabulary, batch, positions = SIZES[options.size]
    described = (
        f"{options.size}: d_model {hidden}, {n_layers} layers, {n_heads} heads, vocabulary {vocabulary}, batch "
        f"{batch} x {positions}, float32, start layer {START_LAYER} (LoRA: all layers), {options.rounds} rounds, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    print(f"{described}\n{machine()}\n\n{table(rows)}")
    if options.json:
        result = {"described": described, "machine": machine(), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
