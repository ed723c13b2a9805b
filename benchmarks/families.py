"""What a training step of each family costs, against a Llama of the same size.

    python benchmarks/families.py [--rounds 10] [--size small|medium] [--only qwen3] [--json FILE]

A step is forward, cross-entropy, backward and AdamW on Aligner-1, base frozen, one thread. All bases have the same
sizes: d_model, layers, heads, half as many heads for keys and values, d_head, d_mlp and vocabulary. The floor is the
Llama with fast components. Every round runs each variant once beside a step of the floor, as in training_step.py; the
floor is a variant too: what its row differs from 1 by is noise. Memory is the peak of torch's allocator within one
step, as there. "No overlay" is `load_model(..., fast=False)`.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace

import setting
from setting import SIZES, START_LAYER, Size, Times, machine, one_thread, paired, timed
from training_step import Row, Variant, peak_bytes

FLOOR = "Llama"
AGAIN = "Llama, against itself"
#: Names of Hugging Face classes, and what else their configuration needs to have the same sizes as the Llama.
FAMILIES = {
    "Qwen3": ("Qwen3", {}),
    "Gemma 2": ("Gemma2", {}),
    "Gemma 3": ("Gemma3", {}),
    "Phi-3": ("Phi3", {"pad_token_id": 0}),
    "SmolLM3": ("SmolLM3", {"pad_token_id": 0}),
    "OLMo 2": ("Olmo2", {"pad_token_id": 0}),
}
POSITIONS = 512
BATCH = 4


def plain(name: str, options: dict, size: Size):
    """A plain Hugging Face model of random weights."""
    import torch
    import transformers

    model_class = getattr(transformers, f"{name}ForCausalLM")
    d_head = size.hidden // size.heads
    config = model_class.config_class(
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads // 2,
        head_dim=d_head,
        vocab_size=size.vocabulary,
        max_position_embeddings=max(size.positions, 128),
        **options,
    )
    torch.manual_seed(0)
    return model_class(config).eval()


def variants(size: Size, only: str | None) -> dict[str, Callable[[], Variant]]:
    """How to make each variant: a family with Aligner-1, with the overlay and without."""
    import torch

    from aligner_probe.adapters.prefix import Aligner
    from aligner_probe.models import load_model

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, size.vocabulary, (size.batch, size.positions), generator=generator)

    def maker(name: str, options: dict, fast: bool) -> Callable[[], Variant]:
        def make() -> Variant:
            model = load_model(plain(name, options, size), fast=fast)
            adapter = Aligner(model, 1, START_LAYER)
            return Variant(model, list(adapter.parameters()), ids, adapter.attached)

        return make

    made = {}
    for said, (name, options) in {FLOOR: ("Llama", {}), **FAMILIES}.items():
        made[said] = maker(name, options, True)
        made[f"{said}, no overlay"] = maker(name, options, False)
    wanted = (only or "").lower()
    floor = made.pop(FLOOR)
    return {FLOOR: floor, AGAIN: floor, **{said: make for said, make in made.items() if wanted in said.lower()}}


def measure(size: Size, rounds: int, only: str | None) -> list[Row]:
    """One warm-up and one profiled step each, then the rounds."""
    made = {name: make() for name, make in variants(size, only).items()}
    peaks = {}
    for name, variant in made.items():
        with variant.attached():
            variant.step()
            peaks[name] = peak_bytes(variant.step, "cpu")

    def run(name: str) -> tuple[float, float]:
        with made[name].attached():
            return timed(made[name].step)

    times = {FLOOR: Times(), **paired(made, FLOOR, rounds, run)}
    return [Row(n, sum(p.numel() for p in made[n].parameters), peaks[n], times[n]) for n in made]


def table(rows: list[Row]) -> str:
    """The results as a Markdown table."""
    floor = rows[0]
    lines = [
        "| base | wall / Llama [quartiles] | CPU / Llama [quartiles] | peak MiB (/ Llama) |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        ratios = "1 | 1" if row is floor else row.times.said()
        memory = f"{row.peak_bytes / 2**20:.1f} ({row.peak_bytes / floor.peak_bytes:.3f})"
        lines.append(f"| {row.name} | {ratios} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = setting.parser("Cost of a training step of each family, against a Llama.", 10)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--only", help="only bases whose name has this in it")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error("--rounds: at least 1")
    one_thread()
    size = SIZES[options.size]
    if options.size != "tiny":
        size = replace(size, batch=BATCH, positions=POSITIONS)
    rows = measure(size, options.rounds, options.only)
    described = (
        f"{options.size}: {size}, {size.heads // 2} of them for keys and values, float32, Aligner-1 from layer "
        f"{START_LAYER}, batch {size.batch} x {size.positions}, {options.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{described}\n{machine()}\n\n{table(rows)}")
    setting.write(options.json, described, machine(), {"rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
