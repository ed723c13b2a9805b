"""A benchmark asked of one model: the requests of lm-eval's tasks, answered, read by its filters and scored by it."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.adapter import Adapter
from aligner_probe.harness.items import BatchCheck, Item, Metric
from aligner_probe.harness.library import Benchmark, module, quiet
from aligner_probe.models import threads_for
from aligner_probe.threads import using

#: What a batch size of one is compared with, and what any other batch size is compared with.
SEVERAL, ONE = 16, 1


def ask(
    lm: Any,
    model: TransformerBridge,
    benchmark: Benchmark,
    adapter: Adapter | None,
    *,
    seed: int,
    n_checked: int = 0,
    bar: tqdm | None = None,
) -> tuple[list[Item], list[Metric], BatchCheck | None, float]:
    """Ask a base model, with an adapter attached or alone, all requests of a benchmark.

    Args:
        lm: What `language_model` made of the base model.
        model: The base model.
        benchmark: The benchmark, whose requests are answered anew.
        adapter: The adapter; None for the base model alone.
        seed: What draws follow from, in tasks that sample; most tasks are greedy.
        n_checked: How many of the first items are asked again with batches of another size.
        bar: A progress bar, which goes on by one with each request.

    Returns:
        The items, one for each filter; lm-eval's metrics; the check of the batch size; and the seconds without it.
    """
    with using(threads_for(model)), nullcontext() if adapter is None else adapter.attached():
        began = time.perf_counter()
        _answer(lm, benchmark.requests, seed, bar)
        seconds = time.perf_counter() - began
        items, metrics = _read(benchmark)
        check = _check_batches(lm, benchmark, items, seed, n_checked) if n_checked else None
    return items, metrics, check, seconds


def seconds_needed(lm: Any, model: TransformerBridge, benchmark: Benchmark, seed: int) -> float:
    """Estimate the seconds that all items of a benchmark take, from one batch of them on the base model alone."""
    by_doc = [requests for task in benchmark.tasks for _, requests in _by_doc(task.instances)]
    some = by_doc[: lm.batch_size]
    with using(threads_for(model)):
        began = time.perf_counter()
        _answer(lm, [request for of_doc in some for request in of_doc], seed, None)
        return (time.perf_counter() - began) / len(some) * len(by_doc)


def _answer(lm: Any, requests: Sequence[Any], seed: int, bar: tqdm | None) -> None:
    """Put the model's response into each request instead of the one that is there, as lm-eval's `evaluate` does it."""
    by_type: dict[str, list[Any]] = defaultdict(list)
    for request in requests:
        request.resps, request.filtered_resps = [], {}
        by_type[request.request_type] += [request] * request.repeats
    lm.set_cache_hook(_Counting(bar))
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        for request_type, its in by_type.items():
            for response, request in zip(getattr(lm, request_type)(its), its, strict=True):
                request.resps.append(response)


def _read(benchmark: Benchmark) -> tuple[list[Item], list[Metric]]:
    """The items of a benchmark whose requests are answered, and lm-eval's own value of each metric."""
    items, metrics = [], []
    for task in benchmark.tasks:
        task.apply_filters()
        doc_ids = benchmark.doc_ids[task.task_name]
        values: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for filter_name in task.instances[0].filtered_resps:
            for index, requests in _by_doc(task.instances):
                doc = requests[0].doc
                scores = task.process_results(doc, [one.filtered_resps[filter_name] for one in requests])
                for metric, value in scores.items():
                    values[metric, filter_name].append(value)
                items.append(
                    Item(
                        task.task_name,
                        doc_ids[index],
                        filter_name,
                        {metric: _score(value) for metric, value in scores.items()},
                        _answer_of(task, requests, filter_name),
                        _target_of(task, doc),
                        str(requests[0].args[0]),
                        _said_in(requests),
                    )
                )
        metrics += [_metric(task, *which, its) for which, its in values.items()]
    return items, metrics


def _metric(task: Any, metric: str, filter_name: str, values: list[Any]) -> Metric:
    mean = module("api.metrics").mean
    combine = task.aggregation().get(metric, mean)
    is_mean = combine is mean and all(_score(value) is not None for value in values)
    return Metric(task.task_name, metric, filter_name, _score(combine(values)), is_mean)


def _by_doc(requests: Sequence[Any]) -> Iterator[tuple[int, list[Any]]]:
    """The requests of one task by the index of their item, which lm-eval makes in the order of items."""
    for index, of_doc in groupby(requests, lambda request: request.doc_id):
        yield index, sorted(of_doc, key=lambda request: request.idx)


def _check_batches(lm: Any, benchmark: Benchmark, items: Sequence[Item], seed: int, n: int) -> BatchCheck:
    """Ask the first items again with batches of another size, and count those that come out otherwise."""
    usual = lm.batch_size
    some = set([(name, index) for name, ids in benchmark.doc_ids.items() for index in range(len(ids))][:n])
    again = [one for one in benchmark.requests if (one.task_name, one.doc_id) in some]
    before = [(one, one.resps, one.filtered_resps) for one in benchmark.requests]
    lm.batch_size_per_gpu = SEVERAL if usual == ONE else ONE
    try:
        _answer(lm, again, seed, None)
        anew, _ = _read(benchmark)
        other = lm.batch_size
    finally:
        lm.batch_size_per_gpu = usual
        for request, responses, filtered in before:
            request.resps, request.filtered_resps = responses, filtered
    pairs = list(zip(items, anew, strict=True))
    answers = {(old.task, old.doc_id) for old, new in pairs if old.answer != new.answer}
    scores = {(old.task, old.doc_id) for old, new in pairs if old.scores != new.scores}
    return BatchCheck(len(some), usual, other, len(answers), len(scores))


def _answer_of(task: Any, requests: Sequence[Any], filter_name: str) -> str:
    """The choice that is the most likely, or what a filter read in the text."""
    if requests[0].request_type != "loglikelihood":
        read = requests[0].filtered_resps[filter_name]
        return read if isinstance(read, str) else str(read)
    if len(requests) == 1:
        return str(requests[0].resps[0][1])  # whether the expected text is the greedy one
    # Tasks with mutual information ask every choice a second time, without the question.
    n = len(task.doc_to_choice(requests[0].doc))
    best = max(range(min(n, len(requests))), key=lambda index: requests[index].resps[0][0])
    return str(task.doc_to_choice(requests[0].doc)[best])


def _target_of(task: Any, doc: Any) -> str:
    target = task.doc_to_target(doc)
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        choices = task.doc_to_choice(doc)
        return str(choices[target]) if 0 <= target < len(choices) else str(target)
    return str(target)


def _said_in(requests: Sequence[Any]) -> list[Any]:
    """Texts, or the log-likelihood of each choice."""
    if requests[0].request_type == "loglikelihood":
        return [float(request.resps[0][0]) for request in requests]
    return [response if isinstance(response, str) else float(response) for response in requests[0].resps]


def _score(value: Any) -> float | None:
    """A score as a finite number; None for all else, for instance the counts from which a perplexity is made."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


class _Counting:
    """Given to lm-eval as its cache, which is told of every answer, it moves a bar on and keeps nothing."""

    def __init__(self, bar: tqdm | None):
        self.bar = bar

    def add_partial(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.update()
