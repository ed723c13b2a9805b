"""What it saves to compute the common start of a batch's rows once: training steps and answers of a chat model.

    python benchmarks/common_start.py --model FOLDER [--rounds 10]

FOLDER is that of a chat model (default: $ALIGNER_PROBE_REAL_MODEL), for instance SmolLM2-135M-Instruct, whose template
writes a system message before every question. The questions are short, as those of a probe often are: the longer they
are, the less is saved. The floor computes every row as a whole, as any other library does. One thread; pairing and
ratios are those of training_step.py. Before anything is timed, both ways must give the same losses and answers.
"""

import math
import os
import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import setting
from real_base import TEXT, VARIABLE, stepping, table
from setting import Times, machine, one_thread, paired, timed

WHOLE, ONCE = "every row as a whole", "the common start once"
#: More tokens than any batch here saves.
NEVER = 10**9


def questions(rows: int) -> Any:
    """A task of so many questions to a chat model, with an answer of a few words each."""
    from aligner_probe.tasks import Example, Task
    from aligner_probe.tasks.chat import Conversation, Message

    draw, words = random.Random(0), TEXT.split()
    asked = [" ".join(draw.choices(words, k=6)) for _ in range(rows)]
    return Task(
        "words", "sft", tuple(Example(Conversation([Message("user", f"Say it: {one}?")]), one) for one in asked)
    )


def in_both_ways(call: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """The same call without and with a common start."""
    from aligner_probe.training import common_start

    usual = common_start.FEWEST_SAVED

    def at(fewest: int) -> Callable[[], Any]:
        def run() -> Any:
            common_start.FEWEST_SAVED = fewest
            try:
                return call()
            finally:
                common_start.FEWEST_SAVED = usual

        return run

    return {WHOLE: at(NEVER), ONCE: at(usual)}


def step_of(model: Any, make: Callable[[Any], Any], rows: int) -> tuple[Callable[[], float], Callable[[], None]]:
    """The loss of an adapter on these rows, and a training step of it."""
    import torch

    from aligner_probe.tasks.encoding import encode
    from aligner_probe.training.objective import SFT, Forward
    from aligner_probe.training.sequences import Sequences

    adapter = make(model)
    forward = Forward(model, Sequences(encode(questions(rows), model.tokenizer, max_length=256).sequences, 0))
    sft = SFT(forward, rows)
    step = stepping(adapter.parameters(), lambda: sft.loss(forward(range(rows)), range(rows)))

    def trained() -> None:
        with adapter.attached():
            step()

    def loss() -> float:
        with adapter.attached(), torch.no_grad():
            return float(sft.loss(forward(range(rows)), range(rows)))

    return loss, trained


def measured(name: str, ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Times]:
    for way in ways.values():
        way()
    times = paired(ways, WHOLE, rounds, lambda way: timed(ways[way]))
    print(table(times, WHOLE, name), "\n", flush=True)
    return times


def main() -> None:
    parser = setting.parser(__doc__.splitlines()[0], 10)
    parser.add_argument(
        "--model", default=os.environ.get(VARIABLE), help=f"a chat model's folder (default: ${VARIABLE})"
    )
    parser.add_argument(
        "--rows", type=int, default=8, help="rows of a step; four times as many are answered (default: 8)"
    )
    options = parser.parse_args()
    if not options.model:
        parser.error(f"--model: name the folder of a chat model, or set ${VARIABLE}")
    one_thread()
    from real_base import adapters

    import aligner_probe as ap

    model, rows, results = ap.load_model(options.model), options.rows, {}
    for method in ("Aligner-1", "LoRA r=8 (q, v)"):
        loss, step = step_of(model, adapters()[method], rows)
        whole, once = (way() for way in in_both_ways(loss).values())
        if not math.isclose(whole, once, rel_tol=1e-4):
            raise SystemExit(f"{method}: the loss is {whole} with whole rows and {once} with a common start")
        results[method] = measured(f"{method}: a step of {rows} rows", in_both_ways(step), options.rounds)
    prompts = questions(4 * rows).prompts

    def answers() -> list[str]:
        return ap.generate(model, prompts, max_new_tokens=12)

    whole, once = (way() for way in in_both_ways(answers).values())
    if whole != once:
        raise SystemExit(f"{sum(a != b for a, b in zip(whole, once, strict=True))} of {len(whole)} answers differ")
    results["answers"] = measured(f"{4 * rows} answers of at most 12 tokens", in_both_ways(answers), options.rounds)
    described = f"{Path(options.model).name}, float32, {options.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    print(f"{described}\n{machine()}")
    times = {part: {name: asdict(one) for name, one in its.items()} for part, its in results.items()}
    setting.write(options.json, described, machine(), {"times": times})


if __name__ == "__main__":
    main()
