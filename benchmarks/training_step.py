"""What a training step costs with each adapter, against the least that any adapter could cost.

    python benchmarks/training_step.py [--rounds 20] [--size small|medium|large] [--json FILE]
    python benchmarks/training_step.py --size large --device cuda --dtype bfloat16 [--largest-batch]

A step is forward, cross-entropy, backward and AdamW on the adapter's numbers, base frozen, one thread. The floor is the
bare Hugging Face model with sdpa attention and one trained vector added to the input of the start layer's o_proj: any
method that trains something in that layer has this gradient to compute. Every round runs each variant once, in a new
random order, with a step of the floor of its own right before or after it, by chance; a variant's time is its ratio to
that step, so that what slows the machine for a while slows both. The floor is a variant too: what its row differs from
1 by is noise.

Memory is the peak, within one step, of what torch's allocator handed out since the step began (on a CPU, allocator
events of torch.profiler): weights, optimiser state and data are outside, activations, gradients and temporaries inside.
It is the same on every run. `--largest-batch` looks, instead of timing, for the most examples that a step takes: within
the card's memory, or within `--memory` GiB for weights and step together.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field

import setting
from setting import SIZES, START_LAYER, Bases, Times, machine, one_thread, paired, timed

FLOOR = "floor: plain Hugging Face"
AGAIN = "floor, against itself"


@dataclass
class Variant:
    """A model with something trained in it."""

    model: Callable
    parameters: list
    ids: object
    attached: Callable[[], AbstractContextManager] = nullcontext  # once a run
    entered: Callable[[], AbstractContextManager] = nullcontext  # once a step
    optimiser: object = field(init=False)

    def __post_init__(self) -> None:
        import torch

        self.parameters = [p for p in self.parameters if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4)

    def step(self) -> None:
        """One training step; gradients are given back at its end."""
        with self.entered():
            self._loss().backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)

    def _loss(self):
        # In a function of its own, which lets the logits go.
        import torch

        logits = self.model(self.ids, use_cache=False)
        logits = getattr(logits, "logits", logits)
        return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), self.ids[:, 1:].flatten())


@dataclass
class Row:
    """One variant's results."""

    name: str
    n_parameters: int
    peak_bytes: int
    times: Times


def makers(bases: Bases, ids) -> dict[str, Callable[[], Variant]]:
    """How to make every variant, all on the same weights."""
    import peft
    import torch

    from aligner_probe.adapters.lora import LoRA
    from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
    from aligner_probe.models import load_model

    bridges = {}

    def bridge(fast: bool):
        if fast not in bridges:
            bridges[fast] = load_model(bases.plain(), fast=fast)
        return bridges[fast]

    def floor() -> Variant:
        model, leaf = bases.plain(), torch.nn.Parameter(torch.zeros(bases.size.hidden, device=bases.device))
        projection = model.model.layers[START_LAYER].self_attn.o_proj
        projection.register_forward_pre_hook(lambda module, inputs: (inputs[0] + leaf.to(inputs[0].dtype),))
        return Variant(model, [leaf], ids)

    def ours(method, *options, fast: bool = True, lower_kept: bool = False) -> Callable[[], Variant]:
        def make() -> Variant:
            model = bridge(fast)
            adapter = method(model, *options)
            entered = _lower_layers(model, ids) if lower_kept else nullcontext
            return Variant(model, list(adapter.parameters()), ids, adapter.attached, entered)

        return make

    def of_peft(peft_config) -> Callable[[], Variant]:
        def make() -> Variant:
            model = peft.get_peft_model(bases.plain(), peft_config).eval()
            return Variant(model, list(model.parameters()), ids)

        return make

    n_adapted = bases.size.layers - START_LAYER
    prompt = peft.AdaptionPromptConfig(adapter_len=10, adapter_layers=n_adapted, task_type="CAUSAL_LM")
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    return {
        FLOOR: floor,
        AGAIN: floor,
        "Aligner-1": ours(Aligner, 1, START_LAYER),
        "Aligner-10": ours(Aligner, 10, START_LAYER),
        "Aligner-100": ours(Aligner, 100, START_LAYER),
        "LLaMA-Adapter-10": ours(LLaMAAdapter, 10, START_LAYER),
        "LoRA r=8 (q, v)": ours(LoRA, 8),
        "Aligner-1, lower layers kept": ours(Aligner, 1, START_LAYER, lower_kept=True),
        "Aligner-10, lower layers kept": ours(Aligner, 10, START_LAYER, lower_kept=True),
        "Aligner-1, no overlay": ours(Aligner, 1, START_LAYER, fast=False),
        "Aligner-10, no overlay": ours(Aligner, 10, START_LAYER, fast=False),
        "PEFT AdaptionPrompt-10": of_peft(prompt),
        "PEFT LoRA r=8 (q, v)": of_peft(lora),
    }


def _lower_layers(model, ids) -> Callable[[], AbstractContextManager]:
    """Layers below the start layer as a training run has them from its second pass on: read from a mapped file."""
    from aligner_probe.tasks.encoding import Tokens
    from aligner_probe.training.blocks import entering_at
    from aligner_probe.training.lower_layers import LowerLayers
    from aligner_probe.training.sequences import Sequences

    rows = [Tokens(row, row, 0) for row in ids.cpu()]
    kept = LowerLayers(model, Sequences(rows, pad_id=0), START_LAYER)

    return lambda: entering_at(model, START_LAYER, kept.residual(range(len(rows))))


def peak_bytes(step: Callable[[], None], device: str) -> int:
    """The most that was allocated at once during a call, over what was there before it."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
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


def measure(bases: Bases, rounds: int, only: str | None) -> list[Row]:
    """One warm-up and one profiled step each, then the rounds."""
    device, ids = str(bases.device), bases.ids(bases.size.batch, bases.size.positions)
    made = {name: make() for name, make in chosen(bases, ids, only).items()}
    peaks = {}
    for name, variant in made.items():
        with variant.attached():
            variant.step()
            peaks[name] = peak_bytes(variant.step, device)

    def run(name: str) -> tuple[float, float]:
        with made[name].attached():
            return timed(made[name].step, device)

    times = paired(made, FLOOR, rounds, run)
    times[FLOOR] = Times()
    return [Row(n, sum(p.numel() for p in made[n].parameters), peaks[n], times[n]) for n in made]


def chosen(bases: Bases, ids, only: str | None) -> dict[str, Callable[[], Variant]]:
    """The floor, and variants whose name has `only` in it."""
    wanted = (only or "").lower()
    return {n: make for n, make in makers(bases, ids).items() if n in (FLOOR, AGAIN) or wanted in n.lower()}


def table(rows: list[Row]) -> str:
    """The results as a Markdown table."""
    floor = rows[0]
    lines = [
        "| variant | trained | ms, median | wall / floor [quartiles] | CPU / floor [quartiles] | peak MiB (/ floor) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        memory = f"{row.peak_bytes / 2**20:.1f} ({row.peak_bytes / floor.peak_bytes:.3f})"
        # The floor's own row has every step of it, beside all others.
        seconds = [s for other in rows for s in other.times.floor_wall] if row is floor else row.times.wall
        ratios = "1 | 1" if row is floor else row.times.said()
        milliseconds = f"{1000 * statistics.median(seconds):.0f}"
        lines.append(f"| {row.name} | {row.n_parameters:,} | {milliseconds} | {ratios} | {memory} |")
    return "\n".join(lines)


def largest_batches(bases: Bases, only: str | None, memory: float | None) -> str:
    """The most examples that a step of each variant takes, as a Markdown table; doubling, then halving the interval."""
    import torch

    device, floor = str(bases.device), None
    lines = ["| variant | largest batch | / floor |", "|---|---:|---:|"]
    for name in chosen(bases, bases.ids(1, bases.size.positions), only):

        def fits(batch: int, name: str = name) -> bool:
            try:
                variant = makers(bases, bases.ids(batch, bases.size.positions))[name]()
                weights = sum(p.numel() * p.element_size() for p in variant.model.parameters())
                with variant.attached():
                    variant.step()
                    peak = peak_bytes(variant.step, device)
            except torch.OutOfMemoryError:
                return False
            finally:
                variant = None
                if device.startswith("cuda"):
                    torch.cuda.empty_cache()
            return memory is None or weights + peak <= memory * 2**30

        low, high = 0, 1
        while fits(high):
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        floor = low if floor is None else floor
        lines.append(f"| {name} | {low} | {low / floor if floor else float('nan'):.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = setting.parser("Cost of a training step with each adapter, against the floor.", 20)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the base's numbers")
    parser.add_argument("--largest-batch", action="store_true", help="how many examples a step takes, instead of times")
    parser.add_argument("--memory", type=float, help="GiB for weights and step, with --largest-batch")
    parser.add_argument("--only", help="only variants whose name has this in it")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    if options.largest_batch and options.memory is None and options.device == "cpu":
        parser.error("--largest-batch on a CPU needs --memory, in GiB")
    one_thread()
    size = SIZES[options.size]
    bases = Bases(size, options.device, options.dtype)
    described = f"{options.size}: {size}, {options.dtype}, start layer {START_LAYER} (LoRA: all layers)"
    if options.largest_batch:
        largest = largest_batches(bases, options.only, options.memory)
        within = f"{options.memory} GiB" if options.memory else "the card"
        print(f"{described}, {size.positions} positions, within {within}\n{machine(options.device)}\n\n{largest}")
        return
    described += f", batch {size.batch} x {size.positions}, {options.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    rows = measure(bases, options.rounds, options.only)
    print(f"{described}\n{machine(options.device)}\n\n{table(rows)}")
    setting.write(options.json, described, machine(options.device), {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
