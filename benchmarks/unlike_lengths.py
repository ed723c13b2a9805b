"""What it saves to put rows of like length together: training steps on a task whose rows differ in length.

    python benchmarks/unlike_lengths.py --model FOLDER --task FILE [--rounds 4] [--steps 4]

FILE is a task, for instance rows of Alpaca. A round trains the same batches of 16 rows in four ways: as drawn in one
pass, with which the others are compared; as drawn, four rows at a time, as most trainers accumulate gradients; four
rows of like length at a time; and in the number of passes that `fit` chooses. One thread; pairing and ratios are those
of training_step.py. Before anything is timed, all ways must give the same losses.
"""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import setting
from real_base import VARIABLE, adapters, table
from setting import machine, one_thread, paired, timed

ROWS, PART = 16, 4
WHOLE, DRAWN, ALIKE, CHOSEN = (
    "as drawn, one pass",
    "as drawn, 4 rows a pass",
    "of like length, 4 rows a pass",
    "of like length, as many passes as `fit` chooses",
)
Split = Callable[[Sequence[int]], list[Sequence[int]]]


def ways(train: Any) -> dict[str, Split]:
    """The four ways: what each of them makes of a batch."""
    from aligner_probe.training.passes import in_passes, parts_of, tokens_of_a_pass

    a_pass = tokens_of_a_pass(train.forward.model)
    return {
        WHOLE: lambda batch: [batch],
        DRAWN: lambda batch: [batch[at : at + PART] for at in range(0, len(batch), PART)],
        ALIKE: lambda batch: parts_of(train, batch, PART),
        CHOSEN: lambda batch: in_passes({"": batch}, {"": train}, {"": None}, a_pass)[""],
    }


def objective_of(model: Any, file: Path) -> Any:
    """The task's loss, on the rows of at most 256 tokens that have an answer."""
    import aligner_probe as ap
    from aligner_probe.tasks.encoding import encode
    from aligner_probe.training.objective import SFT, Forward
    from aligner_probe.training.sequences import Sequences

    sequences = encode(ap.load_task(file, flawed="drop"), model.tokenizer, max_length=256, overlong="drop").sequences
    return SFT(Forward(model, Sequences(sequences, 0)), len(sequences))


def main() -> None:
    parser = setting.parser(__doc__.splitlines()[0], 4)
    parser.add_argument("--model", default=os.environ.get(VARIABLE), help=f"a model's folder (default: ${VARIABLE})")
    parser.add_argument("--task", type=Path, required=True, help="a task, for instance rows of Alpaca")
    parser.add_argument("--steps", type=int, default=4, help="steps of a round, each on other rows (default: 4)")
    options = parser.parse_args()
    if not options.model:
        parser.error(f"--model: name a model's folder, or set ${VARIABLE}")
    one_thread()
    import torch

    import aligner_probe as ap
    from aligner_probe.training.order import Order

    model = ap.load_model(options.model)
    adapter = adapters()["Aligner-1"](model)
    train = objective_of(model, options.task)
    order = Order(ap.recipe("corrected", batch_size=ROWS), len(train))
    batches = [order(step) for step in range(1, 1 + options.steps)]
    optimiser = torch.optim.AdamW(adapter.parameters(), lr=1e-4)
    split = ways(train)

    def losses(way: str) -> list[float]:
        """The losses of all batches."""
        with adapter.attached():
            return [
                sum(float(train.loss(train.forward(train.rows(part)), part)) for part in split[way](batch))
                / train.weight(batch)
                for batch in batches
            ]

    def steps(way: str) -> None:
        with adapter.attached():
            for batch in batches:
                for part in split[way](batch):
                    (train.loss(train.forward(train.rows(part)), part) / train.weight(batch)).backward()
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)

    with torch.no_grad():
        expected = losses(WHOLE)
        for way in split:
            if not all(math.isclose(a, b, rel_tol=1e-4) for a, b in zip(losses(way), expected, strict=True)):
                raise SystemExit(f"{way}: the losses are {losses(way)}, and {expected} as drawn in one pass")
    lengths = train.forward.sequences.lengths
    padded = {way: padding(split[way], batches, lengths) for way in split}
    times = paired(split, WHOLE, options.rounds, lambda way: timed(lambda: steps(way)))
    print(table(times, WHOLE, f"Aligner-1: {options.steps} steps of {ROWS} rows"), "\n", flush=True)
    for way, share in padded.items():
        print(f"{way}: {share:.2f} times the tokens of the rows, in {passes(split[way], batches)} passes a step")
    mean, spread = (float(value) for value in (lengths.float().mean(), lengths.float().std()))
    described = (
        f"{Path(options.model).name}, {len(train)} rows of {mean:.0f} tokens at the mean (standard deviation "
        f"{spread:.0f}), float32, {options.rounds} rounds, {time.strftime('%Y-%m-%d')}"
    )
    print(f"{described}\n{machine()}")
    each = {name: asdict(one) for name, one in times.items()}
    setting.write(options.json, described, machine(), {"times": each, "padded": padded})


def padding(split: Split, batches: Sequence[Sequence[int]], lengths: Any) -> float:
    """Positions in all passes, padding among them, by the tokens of the rows."""
    sizes = [[int(lengths[i]) for i in part] for batch in batches for part in split(batch)]
    return sum(len(part) * max(part) for part in sizes) / sum(map(sum, sizes))


def passes(split: Split, batches: Sequence[Sequence[int]]) -> str:
    """How many passes a step has: "4", or "2 to 4"."""
    numbers = sorted({len(split(batch)) for batch in batches})
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


if __name__ == "__main__":
    main()
