"""Benchmarks asked of a base model and of adapters on it: each model and benchmark once, kept on disk."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.checkpoints.adapters import computes_with
from aligner_probe.harness.asking import ask
from aligner_probe.harness.items import Answered, read_answered, write_answered
from aligner_probe.harness.library import Benchmark

#: What was answered, by benchmark and model.
AllAnswered = dict[str, dict[str, Answered]]


def all_answered(
    lm: Any,
    model: TransformerBridge,
    benchmarks: Sequence[Benchmark],
    adapters: Mapping[str, Adapter | None],
    out: Path,
    *,
    seed: int,
    n_checked: int = 0,
    show_progress: bool = True,
) -> AllAnswered:
    """Ask all models what `out` does not have yet, and return all of it.

    Args:
        lm: What `language_model` made of the base model.
        model: The base model.
        benchmarks: The benchmarks.
        adapters: Adapters by the name of the model; None for the base model alone.
        out: The folder. What a model has finished in a benchmark is kept at once, and not asked again.
        seed: What draws follow from, in tasks that sample.
        n_checked: How many items of each benchmark are asked again with batches of another size.
        show_progress: Whether a progress bar is shown. It counts the requests of lm-eval.

    Raises:
        AlignerProbeError: The folder has answers of another adapter, or to other prompts.
    """
    done = on_disk(benchmarks, adapters, out)
    n_all = len(adapters) * sum(len(benchmark.requests) for benchmark in benchmarks)
    n_done = sum(len(one.requests) * len(done[one.name]) for one in benchmarks)
    with tqdm(total=n_all, initial=n_done, desc="requests", disable=not show_progress) as bar:
        for benchmark in benchmarks:
            for name, adapter in adapters.items():
                if name in done[benchmark.name]:
                    continue
                bar.set_postfix_str(f"{benchmark.name}, {name}")
                items, metrics, check, seconds = ask(
                    lm, model, benchmark, adapter, seed=seed, n_checked=n_checked, bar=bar
                )
                answered = Answered(hash_of(adapter), prompts_of(benchmark), round(seconds, 1), metrics, check, items)
                write_answered(out, name, benchmark.name, answered)
                done[benchmark.name][name] = answered
    return {benchmark: {name: its[name] for name in adapters} for benchmark, its in done.items()}


def on_disk(benchmarks: Sequence[Benchmark], adapters: Mapping[str, Adapter | None], out: Path) -> AllAnswered:
    """What `out` has of all that is to be answered. Raises AlignerProbeError as `all_answered` does."""
    done: AllAnswered = {}
    for benchmark in benchmarks:
        prompts, of_benchmark = prompts_of(benchmark), {}
        for name, adapter in adapters.items():
            answered = read_answered(out, name, benchmark.name, adapter=hash_of(adapter), prompts=prompts)
            if answered is not None:
                of_benchmark[name] = answered
        done[benchmark.name] = of_benchmark
    return done


def hash_of(adapter: Adapter | None) -> str | None:
    """A hash of all that an adapter computes with; None for the base model alone."""
    if adapter is None:
        return None
    return hashlib.sha256(json.dumps(computes_with(adapter), sort_keys=True).encode()).hexdigest()


def prompts_of(benchmark: Benchmark) -> str:
    """A hash of all that a benchmark asks: each request's item, prompt and options, and where prompts are cut off."""
    asked = [[one.task_name, one.doc_id, one.idx, one.args] for one in benchmark.requests]
    whole = [benchmark.doc_ids, asked, benchmark.n_ctx if benchmark.n_cut else None]
    return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()
