"""Many adapters in one batch against the same adapters one after another, and rows drawn from a pool of a million.

    python benchmarks/many_adapters.py [--rounds 5] [--model microworld] [--rows 32] [--new 32] [--only joint]
    python benchmarks/many_adapters.py --pool-size 100000     # a smaller pool; a million takes 0.7 GB

`joint`: as many Aligner-1 as rows answer a prompt each, with unequal lengths of prompts and answers; the floor is one
adapter after another. Before anything is timed, all ways must have given the same tokens. `pool`: a pool of random
Aligner-1 is written to a temporary folder and opened; rows whose adapters are drawn from all of it in every round are
timed against rows of one adapter. `table`: how many adapters fit beside LLaMA-2 7B, and the paper's row. One thread;
pairing and ratios are those of training_step.py.
"""

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import setting
from setting import Times, machine, one_thread, paired, timed

PARTS = ("joint", "pool", "table")
ONE_BY_ONE = "one adapter after another"
ONE_FOR_ALL = "one adapter for all rows"
#: Spread of the random gates: so large that adapters change what is said.
GATES = 0.3
GIGABYTE = 1e9


def prompts_for(model: Any, rows: int) -> list[list[int]]:
    """Prompts of 4 to 24 random tokens."""
    chance = random.Random(0)
    return [[chance.randrange(5, model.cfg.d_vocab) for _ in range(chance.randint(4, 24))] for _ in range(rows)]


def random_aligner(model: Any, seed: int) -> Any:
    import torch

    from aligner_probe.adapters.adapter import suggested_start_layer
    from aligner_probe.adapters.prefix import Aligner

    adapter = Aligner(model, 1, suggested_start_layer(model), seed=seed)
    with torch.no_grad():
        drawn = torch.randn(adapter.gates.shape, generator=torch.Generator().manual_seed(seed))
        adapter.gates.copy_(GATES * drawn)
    return adapter


def joint(model: Any, rows: int, new: int, rounds: int) -> dict[str, Times]:
    """All adapters in one batch, as a pool and side by side, against one after another."""
    from aligner_probe.adapters.pool import AdapterPool
    from aligner_probe.adapters.rows import RowAdapters
    from aligner_probe.adapters.side_by_side import SideBySide
    from aligner_probe.evaluation.generation import generate_ids

    prompts, adapters = prompts_for(model, rows), [random_aligner(model, seed) for seed in range(rows)]

    def ending(new_tokens: list[int]) -> bool:
        # Answers end at different moments: it hangs on what they say, between a quarter of the tokens and all.
        return len(new_tokens) >= new // 4 + new_tokens[0] % (new - new // 4 + 1)

    def together(shared: RowAdapters) -> Callable[[], list[list[int]]]:
        def call() -> list[list[int]]:
            with shared.attached(), shared.rows(range(rows)):
                return generate_ids(model, prompts, max_new_tokens=new, ending=ending)

        return call

    def one_by_one() -> list[list[int]]:
        answers = []
        for adapter, prompt in zip(adapters, prompts, strict=True):
            with adapter.attached():
                answers += generate_ids(model, [prompt], max_new_tokens=new, ending=ending)
        return answers

    ways = {
        ONE_BY_ONE: one_by_one,
        f"{rows} adapters in one batch (a pool)": together(AdapterPool(adapters)),
        f"{rows} adapters in one batch (side by side)": together(SideBySide(adapters)),
    }
    answers = {name: way() for name, way in ways.items()}
    for name, its in answers.items():
        different = sum(one != other for one, other in zip(its, answers[ONE_BY_ONE], strict=True))
        if different:
            raise SystemExit(f"{name}: {different} of {rows} answers differ from those of separate runs")
    lengths = sorted(map(len, answers[ONE_BY_ONE]))
    print(f"The same tokens in every way: {rows} answers of {lengths[0]} to {lengths[-1]} tokens.")
    return paired(ways, ONE_BY_ONE, rounds, lambda name: timed(ways[name]))


def million(model: Any, size: int, rows: int, new: int, rounds: int, folder: Path) -> tuple[dict[str, Times], str]:
    """Rows of adapters drawn from a pool of `size`, against rows of one adapter; and what opening and memory are."""
    import torch

    from aligner_probe.adapters.pool import AdapterPool
    from aligner_probe.checkpoints.pools import open_pool, save_pool
    from aligner_probe.evaluation.generation import generate_ids

    like = random_aligner(model, 0)
    n = sum(tensor.numel() for tensor in like.state_dict().values())
    _write_pool(AdapterPool, save_pool, like, size, folder / "pool")
    before = resident()
    began = time.perf_counter()
    pool = open_pool(folder / "pool", model)
    opening, opened = time.perf_counter() - began, resident()
    prompts, chance = prompts_for(model, rows), random.Random(1)

    def answer(which: Callable[[], list[int]]) -> Callable[[], list[list[int]]]:
        def call() -> list[list[int]]:
            with pool.attached(), pool.rows(which()):
                return generate_ids(model, prompts, max_new_tokens=new)

        return call

    ways = {
        ONE_FOR_ALL: answer(lambda: [7] * rows),
        f"adapters drawn from {size:,}": answer(lambda: [chance.randrange(size) for _ in range(rows)]),
    }
    with torch.no_grad():
        for way in ways.values():
            way()
    times = paired(ways, ONE_FOR_ALL, rounds, lambda name: timed(ways[name]))
    stored = sum(file.stat().st_size for file in (folder / "pool").iterdir())
    said = (
        f"A pool of {len(pool):,} Aligner-1 of {n} parameters ({stored / GIGABYTE:.3f} GB on the disk, just written): "
        f"opened in {1000 * opening:.0f} ms. Resident memory of the process {before / GIGABYTE:.3f} GB before, "
        f"{opened / GIGABYTE:.3f} GB after opening, {resident() / GIGABYTE:.3f} GB after {2 * rounds + 2} batches of "
        f"{rows} rows."
    )
    return times, said


def _write_pool(pool_of: Any, save_pool: Callable, like: Any, size: int, folder: Path) -> None:
    """Write a pool of random adapters; its tensors are free again when this returns."""
    import torch

    generator = torch.Generator().manual_seed(2)
    tensors = {
        name: torch.randn(size, *tensor.shape, generator=generator) for name, tensor in like.state_dict().items()
    }
    tensors["gates"].mul_(GATES)
    save_pool(pool_of.of_tensors(like, tensors), folder)


def resident() -> int:
    """Bytes of physical memory that this process has, mapped files included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def on_a_gpu() -> str:
    """Adapters that fit beside LLaMA-2 7B on 24 GB, with the last row of the paper's Table 1 beside."""
    from aligner_probe.sizes import LLAMA2_7B, adapters_per_gpu_as_published, parameter_table

    rows = parameter_table().rows
    tokens = {"Aligner-1": 1, "Aligner-10": 10, "Aligner-300": 300}
    lines = [
        f"Beside {LLAMA2_7B.name} ({2 * LLAMA2_7B.n_parameters / GIGABYTE:.2f} GB in 16 bits) on 24 GB:",
        "",
        "| method | parameters | adapters, gates counted | by the paper's rule (10 GB free, d_model 4,000, no gates) |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        name = row["method"]
        published = f"{adapters_per_gpu_as_published(tokens[name]):,}" if name in tokens else ""
        lines.append(f"| {name} | {row['n_parameters']:,} | {row['adapters_per_gpu']:,} | {published} |")
    return "\n".join(lines)


def table(times: dict[str, Times], floor: str) -> str:
    """Ratios to the floor as a Markdown table."""
    lines = [f"| | wall / {floor} [quartiles] | CPU [quartiles] | times as fast |", "|---|---:|---:|---:|"]
    for name, its in times.items():
        lines.append(f"| {name} | {its.said()} | {1 / its.ratio('wall')[0]:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = setting.parser("Many adapters in one batch, and rows drawn from a large pool.", 5)
    parser.add_argument("--model", default="microworld", help="a base model's folder (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=32, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="most tokens of an answer (default: %(default)s)")
    parser.add_argument("--pool-size", type=int, default=1_000_000, help="adapters in the pool (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, help="one of the three parts")
    options = parser.parse_args()
    if min(options.rounds, options.rows, options.pool_size) < 1 or options.new < 8:
        parser.error("--rounds, --rows and --pool-size: at least 1; --new: at least 8")
    one_thread()
    parts = PARTS if options.only is None else (options.only,)
    results: dict[str, Any] = {}
    described = (
        f"{options.model}, {options.rows} rows, prompts of 4 to 24 tokens, {options.new} new tokens, "
        f"{options.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{described}\n")
    if parts != ("table",):
        from aligner_probe.models import load_model

        model = load_model(options.model)
        if "joint" in parts:
            times = joint(model, options.rows, options.new, options.rounds)
            results |= {name: asdict(its) for name, its in times.items()}
            print(f"\n{table(times, ONE_BY_ONE)}\n")
        if "pool" in parts:
            with tempfile.TemporaryDirectory() as folder:
                size = options.pool_size
                times, said = million(model, size, options.rows, options.new, options.rounds, Path(folder))
            results |= {name: asdict(its) for name, its in times.items()}
            print(f"{said}\n\n{table(times, ONE_FOR_ALL)}\n")
    if "table" in parts:
        print(f"{on_a_gpu()}\n")
    where = machine()
    print(where)
    setting.write(options.json, described, where, results)


if __name__ == "__main__":
    main()
