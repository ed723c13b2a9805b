"""`aligner-probe evaluate benchmark`: benchmarks of lm-eval, asked of a base model and of adapters on it."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.adapted import add_computation, load_adapted
from aligner_probe.commands.options import Parser, count, names, positive, use_threads
from aligner_probe.commands.recipe_options import add_chat_template

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from transformer_lens.model_bridge import TransformerBridge

    from aligner_probe.adapters.adapter import Adapter
    from aligner_probe.harness.library import Asking, Benchmark

SETTING, LOCK = "setting.json", "lock"
EPILOG = """\
The base model is always one of those that are compared, and all are asked the same prompts. OUT
gets report.md, report.json and items/MODEL/BENCHMARK.jsonl, a row an item. What a model has
finished is kept: the same command goes on, also with more adapters or benchmarks.

example:
  aligner-probe evaluate benchmark --model M --adapter out/aligner1/adapter out/lora/adapter \\
      --tasks mmlu,gsm8k --shots 1 --limit 200 --out out/benchmarks
"""
#: Items that are asked again with batches of another size, where the base model computes in less than float32.
CHECKED = 16


def add_options(parser: Parser) -> None:
    parser.add_argument("--model", required=True, metavar="M", help="the base model: a hub id, or a local folder")
    parser.add_argument(
        "--adapter", nargs="+", default=[], metavar="DIR", help="adapters: what ap.load_adapter reads, one or more"
    )
    parser.add_argument(
        "--tasks", required=True, type=names, metavar="T,T", help="tasks of lm-eval by name, for instance mmlu,gsm8k"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="OUT", help="the folder of the answers and reports")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the adapters (default: from their paths)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help="read gsm8k and mmlu from FOLDER/gsm8k and FOLDER/mmlu (test.jsonl, train.jsonl), not from the hub",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be asked and how long it takes")
    parser.add_argument("--force", action="store_true", help="use adapters that were trained on another base model")
    asked = parser.add_argument_group("how questions are asked")
    asked.add_argument(
        "--shots", type=count, metavar="N", help="examples before each question (default: the task's own number)"
    )
    asked.add_argument(
        "--limit", type=positive, metavar="N", help="at most N items of each task, drawn by --seed (default: all)"
    )
    asked.add_argument("--seed", type=int, default=0, metavar="N", help="what draws items and examples (default: 0)")
    asked.add_argument(
        "--as-chat",
        action="store_true",
        help="ask through the chat template, examples as earlier turns (default: as plain texts)",
    )
    asked.add_argument(
        "--system",
        metavar="TEXT",
        help="a system message; without --as-chat, a text before all else",
    )
    add_chat_template(asked)
    computed = parser.add_argument_group("how answers are computed")
    computed.add_argument(
        "--batch-size", type=positive, default=16, metavar="N", help="requests computed at once (default: 16)"
    )
    computed.add_argument(
        "--check-batch",
        type=count,
        metavar="N",
        help="ask the first N items again with batches of 1 (of 16 where --batch-size is 1), and count the answers "
        f"that differ (default: {CHECKED} in less than float32, else 0)",
    )
    add_computation(computed)
    parser.add_reading_options()


def evaluate(options: argparse.Namespace) -> int:
    """Ask the benchmarks, print the scores and differences, and write the report; return the exit code."""
    use_threads(options.threads)

    from aligner_probe.evaluation.answers import BASE, names_for
    from aligner_probe.files import held
    from aligner_probe.harness import report
    from aligner_probe.harness.comparing import compare
    from aligner_probe.harness.library import Asking, find_tasks, language_model, prepare
    from aligner_probe.harness.run import all_answered
    from aligner_probe.jobs.folder import begin
    from aligner_probe.tasks.templates import unescape

    system = None if options.system is None else unescape(options.system)
    asking = Asking(options.shots, options.limit, options.seed, options.as_chat, system)
    given = [BASE, *names_for(options.adapter, options.names)]
    tasks = {name: find_tasks(name, options.data, options.shots) for name in dict.fromkeys(options.tasks)}
    model, adapters = load_adapted(options, given)
    n_positions = max(0 if one is None else one.n_positions for one in adapters.values())
    lm = language_model(model, batch_size=options.batch_size, n_positions=n_positions)
    benchmarks = [prepare(name, its, lm, asking) for name, its in tasks.items()]
    _print_asking(options, model, asking)
    if options.dry_run:
        _print_plan(options, model, lm, benchmarks, adapters)
        return 0
    setting = _setting(options, model, asking)
    with held(options.out / LOCK, messages.BENCHMARK_TAKEN.format(out=options.out)):
        if not (options.out / "items").is_dir():
            # A command that failed before its first answer may be given again with other options.
            (options.out / SETTING).unlink(missing_ok=True)
        begin(options.out, {SETTING: json.dumps(setting, indent=1) + "\n"}, messages.OTHER_BENCHMARKS)
        with going_on(lambda: messages.BENCHMARK_KEPT.format(out=options.out)):
            answered = all_answered(
                lm, model, benchmarks, adapters, options.out, seed=options.seed, n_checked=n_checked(options)
            )
    compared = compare(answered, options.seed)
    lines = report.lines_of(benchmarks, answered, compared, asking, _about(options, setting))
    files = report.write_report(options.out, lines, report.fields_of(benchmarks, answered, compared, asking, setting))
    print("\n".join(lines))
    for file in files:
        print(f"made {file}")
    return 0


def n_checked(options: argparse.Namespace) -> int:
    """How many items are asked again with batches of another size."""
    if options.check_batch is not None:
        return options.check_batch
    return 0 if options.dtype == "float32" and options.quantization is None else CHECKED


def _setting(options: argparse.Namespace, model: "TransformerBridge", asking: "Asking") -> dict[str, Any]:
    """What the answers follow from, beside adapters and prompts; a folder has the answers of one such setting."""
    from dataclasses import asdict

    from aligner_probe.fingerprints import fingerprint
    from aligner_probe.harness.library import version
    from aligner_probe.models import precision_in_words

    return {
        "base": {"fingerprint": fingerprint(model), "precision": precision_in_words(model)},
        "asking": asdict(asking) | {"chat_template": options.chat_template},
        "batch_size": options.batch_size,
        "check_batch": n_checked(options),
        "lm_eval": version(),
    }


def _about(options: argparse.Namespace, setting: dict[str, Any]) -> str:
    precision, batch_size = setting["base"]["precision"], setting["batch_size"]
    data = "" if options.data is None else f" Rows from {options.data}."
    return f"Base model {options.model} in {precision}, batches of {batch_size}, lm-eval {setting['lm_eval']}.{data}"


def _print_asking(options: argparse.Namespace, model: "TransformerBridge", asking: "Asking") -> None:
    from aligner_probe.harness.report import how_asked
    from aligner_probe.tasks.chat_template import has_template

    print("\n".join(how_asked(asking)))
    if not asking.as_chat and options.chat_template != "none" and has_template(model.tokenizer):
        print(messages.NO_TEMPLATE_USED)


def _print_plan(
    options: argparse.Namespace,
    model: "TransformerBridge",
    lm: Any,
    benchmarks: "Sequence[Benchmark]",
    adapters: "Mapping[str, Adapter | None]",
) -> None:
    from aligner_probe.harness.asking import seconds_needed
    from aligner_probe.harness.report import size_of
    from aligner_probe.harness.run import on_disk

    done, whole = on_disk(benchmarks, adapters, options.out), 0.0
    for benchmark in benchmarks:
        left = len(adapters) - len(done[benchmark.name])
        seconds = seconds_needed(lm, model, benchmark, options.seed) if left else 0.0
        whole += left * seconds
        said = {"name": benchmark.name, "size": size_of(benchmark), "left": left, "models": len(adapters)}
        print(messages.BENCHMARK_PLANNED.format(**said, minutes=seconds / 60))
    print(messages.BENCHMARKS_PLANNED.format(minutes=whole / 60))
