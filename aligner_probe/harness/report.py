"""The result of benchmarks, as report.json and report.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aligner_probe.evaluation.intervals import Interval
from aligner_probe.files import storable, write_text
from aligner_probe.harness.comparing import Comparison, Difference, Score
from aligner_probe.harness.items import Answered
from aligner_probe.harness.library import Asking, Benchmark
from aligner_probe.markdown import table

NONE = "–"
SCORES_HEADER = ("model", "metric", "how the answer is read", "n", "score [95 %]", "standard error")
DIFFERENCES_HEADER = (
    "compared",
    "metric",
    "how the answer is read",
    "n",
    "difference [95 %]",
    "right in one alone : in the other alone",
    "p",
)
NOTE = (
    "Models are compared on the same items: the interval is that of a paired bootstrap over items, and p that of "
    "McNemar's exact test on the items that one of the two alone answers rightly. Neither is corrected for the number "
    "of comparisons ({n})."
)
GSM8K_NOTE = (
    "strict-match counts only answers that name the number after ####, as the examples do; flexible-extract takes the "
    "last number. A gap between them is a gap in form."
)


def lines_of(
    benchmarks: Sequence[Benchmark],
    answered: Mapping[str, Mapping[str, Answered]],
    compared: Mapping[str, Comparison],
    asking: Asking,
    about: str,
) -> list[str]:
    """The report in Markdown; `about` is a line on the models."""
    lines = ["# Benchmarks", "", about, *how_asked(asking)]
    n_pairs = 0
    for benchmark in benchmarks:
        its = answered[benchmark.name]
        scores, differences = compared[benchmark.name].scores, compared[benchmark.name].differences
        n_pairs += len(differences)
        lines += ["", f"## {benchmark.name}", "", f"{size_of(benchmark)}.", ""]
        lines += table(SCORES_HEADER, [_score_row(score) for score in scores])
        if differences:
            lines += ["", *table(DIFFERENCES_HEADER, [_difference_row(one) for one in differences])]
        if {score.filter for score in scores} >= {"strict-match", "flexible-extract"}:
            lines += ["", GSM8K_NOTE]
        if checked := [checked_line(name, one) for name, one in its.items() if one.check is not None]:
            lines += ["", *checked]
        lines += ["", "The first prompt:", "", *(f"    {line}" for line in benchmark.first_prompt.split("\n"))]
    return [*lines, "", NOTE.format(n=n_pairs)] if n_pairs else lines


def fields_of(
    benchmarks: Sequence[Benchmark],
    answered: Mapping[str, Mapping[str, Answered]],
    compared: Mapping[str, Comparison],
    asking: Asking,
    setting: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as JSON; `setting` is what the answers follow from."""
    return {
        "setting": dict(setting),
        "asking": asdict(asking),
        "benchmarks": {
            benchmark.name: {
                "n": benchmark.n_items,
                "n_all": benchmark.n_all,
                "shots": list(benchmark.shots),
                "prompts_cut": benchmark.n_cut,
                "first_prompt": benchmark.first_prompt,
                **asdict(compared[benchmark.name]),
                "models": {
                    name: {
                        "adapter": one.adapter,
                        "seconds": one.seconds,
                        "batch_check": None if one.check is None else asdict(one.check),
                        "by_task": [asdict(metric) for metric in one.metrics],
                    }
                    for name, one in answered[benchmark.name].items()
                },
            }
            for benchmark in benchmarks
        },
    }


def write_report(out: Path, lines: Sequence[str], fields: Mapping[str, Any]) -> list[Path]:
    """Write report.md and report.json into the folder `out`."""
    texts = {
        "report.md": "\n".join(lines) + "\n",
        "report.json": json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
    }
    for name, text in texts.items():
        write_text(out / name, storable(text))
    return [out / name for name in texts]


def how_asked(asking: Asking) -> list[str]:
    """How questions are asked, in sentences."""
    chat = "as messages of the chat template" if asking.as_chat else "as plain texts, without a chat template"
    system = "" if asking.system is None else f", with the system message {asking.system!r}"
    return [f"Questions are asked {chat}{system}. Seed {asking.seed} draws items and examples."]


def size_of(benchmark: Benchmark) -> str:
    """The size of a benchmark in words: items, tasks, examples, and prompts that are cut."""
    of = "all items" if benchmark.n_items == benchmark.n_all else f"of {benchmark.n_all}, drawn at random"
    tasks = f" in {len(benchmark.tasks)} tasks" if len(benchmark.tasks) > 1 else ""
    shots = " or ".join(map(str, benchmark.shots))
    cut = ""
    if benchmark.n_cut:
        one = benchmark.n_cut == 1
        cut = f"; {benchmark.n_cut} prompt{' is' if one else 's are'} too long for the context and lost the beginning"
    return f"{benchmark.n_items} items ({of}){tasks}, {shots} example{'s' * (shots != '1')} before each question{cut}"


def checked_line(model: str, answered: Answered) -> str:
    """A sentence that says how many answers another batch size changed."""
    check = answered.check
    if check is None:
        return f"{model}: not checked."
    return (
        f"{model}: with batches of {check.other_batch_size} instead of {check.batch_size}, {check.answers} of "
        f"{check.n} answers differ, and {check.scores} of {check.n} scores."
    )


def _score_row(score: Score) -> tuple[str, ...]:
    value = NONE if score.value is None else f"{score.value:.3f}"
    error = NONE if score.standard_error is None else f"{score.standard_error:.3f}"
    shown = f"{value} (lm-eval's own value)" if score.interval is None else _shown(score.interval)
    return score.model, score.metric, score.filter, str(score.n), shown, error


def _difference_row(difference: Difference) -> tuple[str, ...]:
    discordant = difference.discordant
    return (
        f"{difference.one} − {difference.other}",
        difference.metric,
        difference.filter,
        str(difference.n),
        _shown(difference.interval, sign=True),
        NONE if discordant is None else f"{discordant.only_a} : {discordant.only_b}",
        NONE if discordant is None else _p(discordant.p),
    )


def _shown(interval: Interval, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{interval.value:{plus}.3f} [{interval.low:{plus}.3f}, {interval.high:{plus}.3f}]"


def _p(p: float) -> str:
    return "< .001" if p < 0.001 else f"{p:.3f}".removeprefix("0") if p < 1 else "1"
