"""What greedy generation costs with each adapter, against plain Hugging Face `generate`.

    python benchmarks/generation.py [--rounds 9] [--size small|medium] [--prompt 32] [--new 64] [--json FILE]

One prompt, one thread, a cache of keys and values. "By generate" is Hugging Face's own loop around the bridge's model,
"by generate_ids" that of aligner_probe.evaluation, "by TransformerLens" the bridge's; "no overlay" is
load_model(..., fast=False). Rounds, pairing and ratios are those of training_step.py. Before anything is timed, all
rows of an adapter must have given the same tokens.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass

import setting
from setting import SIZES, START_LAYER, Bases, Times, machine, one_thread, paired, timed

FLOOR = "floor: plain Hugging Face"
AGAIN = "floor, against itself"


@dataclass
class Variant:
    """A way to generate; rows of one `family` give the same tokens."""

    family: str
    call: Callable[[], list[int]]
    attached: Callable[[], AbstractContextManager] = nullcontext


def variants(bases: Bases, prompt: int, new: int) -> dict[str, Variant]:
    """Every variant on the same weights; gates and LoRA's B drawn, so that adapters have an effect."""
    import peft
    import torch

    from aligner_probe.adapters.constant import constant_shifts
    from aligner_probe.adapters.lora import LoRA
    from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
    from aligner_probe.checkpoints.merged import merge
    from aligner_probe.evaluation.generation import generate_ids
    from aligner_probe.models import load_model

    ids = bases.ids(1, prompt)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0, "use_cache": True}

    def by_generate(model) -> Callable[[], list[int]]:
        return lambda: model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, prompt:].tolist()

    def by_generate_ids(model) -> Callable[[], list[int]]:
        return lambda: generate_ids(model, [ids[0].tolist()], max_new_tokens=new)[0]

    def by_transformer_lens(model) -> Callable[[], list[int]]:
        wanted = {"max_new_tokens": new, "do_sample": False, "stop_at_eos": False, "return_type": "tokens"}
        return lambda: model.generate(ids, verbose=False, **wanted)[0, prompt:].tolist()

    def of_peft(config):
        return peft.get_peft_model(bases.plain(), config).eval()

    def opened(adapter):
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in adapter.named_parameters():
                if name == "gates" or name.startswith("B."):
                    parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        return adapter

    def merged(adapter):
        with tempfile.TemporaryDirectory() as folder:
            merge(bases.plain(), constant_shifts(adapter)).save_pretrained(folder)
            return type(plain).from_pretrained(folder, dtype=bases.dtype).to(bases.device).eval()

    plain, fast, slow = bases.plain(), load_model(bases.plain()), load_model(bases.plain(), fast=False)
    one, ten, llama = (
        opened(adapter)
        for adapter in (
            Aligner(fast, 1, START_LAYER),
            Aligner(fast, 10, START_LAYER),
            LLaMAAdapter(fast, 10, START_LAYER),
        )
    )
    lora, slow_ten = opened(LoRA(fast, 8)), opened(Aligner(slow, 10, START_LAYER))
    n_adapted = bases.size.layers - START_LAYER
    prompted = peft.AdaptionPromptConfig(adapter_len=10, adapter_layers=n_adapted, task_type="CAUSAL_LM")
    low_rank = peft.LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    inside = fast.original_model
    return {
        FLOOR: Variant("base", by_generate(plain)),
        AGAIN: Variant("base", by_generate(plain)),
        "bridge, no adapter, by generate": Variant("base", by_generate(inside)),
        "bridge, no adapter, by generate_ids": Variant("base", by_generate_ids(fast)),
        "bridge, no adapter, by TransformerLens": Variant("base", by_transformer_lens(fast)),
        "bridge, no adapter, no overlay, by generate": Variant("base", by_generate(slow.original_model)),
        "bridge, no adapter, no overlay, by TransformerLens": Variant("base", by_transformer_lens(slow)),
        "Aligner-1, by generate": Variant("one", by_generate(inside), one.attached),
        "Aligner-1, merged, plain Hugging Face": Variant("one", by_generate(merged(one))),
        "Aligner-10, by generate": Variant("ten", by_generate(inside), ten.attached),
        "Aligner-10, by generate_ids": Variant("ten", by_generate_ids(fast), ten.attached),
        "Aligner-10, by TransformerLens": Variant("ten", by_transformer_lens(fast), ten.attached),
        "Aligner-10, no overlay, by generate": Variant("ten", by_generate(slow.original_model), slow_ten.attached),
        "LLaMA-Adapter-10, by generate": Variant("llama", by_generate(inside), llama.attached),
        "LoRA r=8 (q, v), by generate": Variant("lora", by_generate(inside), lora.attached),
        "PEFT AdaptionPrompt-10": Variant(
            "peft prompt", by_generate(peft.get_peft_model(bases.plain(), prompted).eval())
        ),
        "PEFT LoRA r=8 (q, v)": Variant("peft lora", by_generate(peft.get_peft_model(bases.plain(), low_rank).eval())),
    }


def measure(bases: Bases, rounds: int, prompt: int, new: int, only: str | None) -> dict[str, Times]:
    """Tokens are compared first, which warms up; then the rounds."""
    made = {
        name: variant
        for name, variant in variants(bases, prompt, new).items()
        if name in (FLOOR, AGAIN) or (only or "").lower() in name.lower()
    }
    tokens: dict[str, list[int]] = {}
    for name, variant in made.items():
        with variant.attached():
            generated = variant.call()
        if tokens.setdefault(variant.family, generated) != generated:
            raise SystemExit(f"{name} gives other tokens than the first of its kind")

    def run(name: str) -> tuple[float, float]:
        with made[name].attached():
            return timed(made[name].call, str(bases.device))

    return paired(made, FLOOR, rounds, run)


def table(times: dict[str, Times], new: int) -> str:
    """The results as a Markdown table."""
    lines = [
        "| variant | ms a token, median | wall / floor [quartiles] | CPU / floor [quartiles] |",
        "|---|---:|---:|---:|",
        f"| {FLOOR} | {1000 * statistics.median(s for t in times.values() for s in t.floor_wall) / new:.2f} | 1 | 1 |",
    ]
    for name, its in times.items():
        lines.append(f"| {name} | {1000 * statistics.median(its.wall) / new:.2f} | {its.said()} |")
    return "\n".join(lines)


def main() -> None:
    parser = setting.parser("Cost of greedy generation with each adapter.", 9)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--prompt", type=int, default=32, help="tokens of the prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens to generate")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--only", help="only variants whose name has this in it")
    options = parser.parse_args()
    if options.rounds < 1 or options.prompt < 1 or options.new < 2:
        parser.error("--rounds and --prompt: at least 1; --new: at least 2")
    one_thread()
    size = SIZES[options.size]
    times = measure(
        Bases(size, options.device, options.dtype), options.rounds, options.prompt, options.new, options.only
    )
    described = (
        f"{options.size}: {size}, {options.dtype}, start layer {START_LAYER} (LoRA: all layers), "
        f"prompt {options.prompt}, {options.new} new tokens, {options.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{described}\n{machine(options.device)}\n\n{table(times, options.new)}")
    setting.write(options.json, described, machine(options.device), {name: asdict(its) for name, its in times.items()})


if __name__ == "__main__":
    main()
