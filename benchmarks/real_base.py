"""What adapters cost on a real base: a training step against plain Hugging Face, and generation against its `generate`.

    python benchmarks/real_base.py --model FOLDER [--rounds 12] [--rows 16] [--threads 1] [--only step] [--json FILE]

FOLDER is that of a Llama (default: $ALIGNER_PROBE_REAL_MODEL), for instance SmolLM2-135M-Instruct. Rows are made of
common English words, a prompt of twelve and an answer of six.

A step is that of training_step.py, on answers only. Its floor is the plain model with one trained vector at the input
of the start layer's o_proj, which unembeds the positions that predict an answer's token and no others. "All positions"
is what Hugging Face's own loss computes: logits of all positions, and a cross-entropy that ignores most of them.

"Together" trains three adapters in one batch, against the same three one after another. Every time has one of its floor
right before or after it, by chance; the tables give the median and the quartiles of these ratios.
"""

import os
import random
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import setting
from setting import Times, machine, paired, timed

VARIABLE = "ALIGNER_PROBE_REAL_MODEL"
FLOOR, AGAIN = "floor: plain Hugging Face", "floor, against itself"
PARTS = ("step", "together", "generation")
TEXT = "the of and to in is it that was for on are as with his they at be this from have or by one had not but all"
N_PROMPT, N_ANSWER = 12, 6


@dataclass
class Timed:
    """Something that is timed; it runs inside `around`."""

    call: Callable[[], object]
    around: Callable[[], AbstractContextManager] = nullcontext


def encoded(model, rows: int):
    """Sequences of common words whose answers are labelled."""
    from aligner_probe.tasks import Example, Task
    from aligner_probe.tasks.encoding import encode
    from aligner_probe.training.sequences import Sequences

    draw, words = random.Random(0), TEXT.split()
    examples = [
        Example(" ".join(draw.choices(words, k=N_PROMPT)) + " ", " ".join(draw.choices(words, k=N_ANSWER)))
        for _ in range(rows)
    ]
    return Sequences(encode(Task("words", "sft", tuple(examples)), model.tokenizer, max_length=64).sequences, 0)


def adapters() -> dict[str, Callable[[Any], Any]]:
    """The adapters that are timed."""
    import aligner_probe as ap
    from aligner_probe.adapters.adapter import suggested_start_layer

    return {
        "Aligner-1": lambda model: ap.Aligner(model, 1, suggested_start_layer(model)),
        "Aligner-10": lambda model: ap.Aligner(model, 10, suggested_start_layer(model)),
        "LoRA r=8 (q, v)": lambda model: ap.LoRA(model, 8),
        "prompt tuning, 10 vectors": lambda model: ap.PromptTuning(model, 10),
    }


def stepping(parameters, loss: Callable[[], Any]) -> Callable[[], None]:
    """A training step: loss, gradients, AdamW."""
    import torch

    trained = [p for p in parameters if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)

    def step() -> None:
        loss().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step


def steps(model, plain, rows: int) -> dict[str, Timed]:
    """The plain model's steps, and those of each adapter."""
    import torch
    import torch.nn.functional as F

    from aligner_probe.adapters.adapter import suggested_start_layer
    from aligner_probe.training.lower_layers import LowerLayers
    from aligner_probe.training.objective import SFT, Forward

    sequences, start = encoded(model, rows), suggested_start_layer(model)
    batch = sequences.batch(range(rows))
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    where = labels[:, 1:] >= 0
    vector = torch.nn.Parameter(torch.zeros(plain.config.hidden_size))
    projection = plain.model.layers[start].self_attn.o_proj
    projection.register_forward_pre_hook(lambda module, inputs: (inputs[0] + vector,))
    n = int(where.sum())

    def answers_only():
        states = plain.model(ids, attention_mask=mask, use_cache=False).last_hidden_state
        return F.cross_entropy(plain.lm_head(states[:, :-1][where]), labels[:, 1:][where], reduction="sum") / n

    def all_positions():
        logits = plain(ids, attention_mask=mask, use_cache=False).logits
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    def of(adapter, lower=None) -> Timed:
        forward = Forward(model, sequences, lower)
        sft = SFT(forward, rows)
        step = stepping(adapter.parameters(), lambda: sft.loss(forward(range(rows)), range(rows)) / n)
        return Timed(step, adapter.attached)

    floor = stepping([vector], answers_only)
    made = {
        FLOOR: Timed(floor),
        AGAIN: Timed(floor),
        "plain Hugging Face, all positions": Timed(stepping([vector], all_positions)),
    }
    made |= {name: of(make(model)) for name, make in adapters().items()}
    kept = LowerLayers(model, sequences, start)
    return made | {"Aligner-1, lower layers kept": of(adapters()["Aligner-1"](model), kept)}


def together(model, rows: int) -> dict[str, dict[str, Timed]]:
    """By method, a step of three adapters in one batch, and three steps of one adapter each as its floor."""
    from aligner_probe.adapters.side_by_side import SideBySide
    from aligner_probe.training.objective import SFT, Forward

    sequences = encoded(model, rows)
    n = int(sequences.labelled.sum())
    found = {}
    for name, make in adapters().items():
        three = [make(model) for _ in range(3)]
        if not all(one.stacks for one in three):
            continue
        forward = Forward(model, sequences)
        sft, both = SFT(forward, rows), SideBySide(three)

        def joint_loss(forward=forward, sft=sft):
            parts = forward([*range(rows)] * 3).split([rows] * 3)
            return sum(sft.loss(part, range(rows)) for part in parts) / n

        def around(both=both) -> AbstractContextManager:
            stack = ExitStack()
            stack.enter_context(both.attached())
            stack.enter_context(both.on([rows] * 3))
            return stack

        alone = [
            stepping(one.parameters(), lambda f=forward, s=sft: s.loss(f(range(rows)), range(rows)) / n)
            for one in three
        ]

        def one_after_another(three=three, alone=alone) -> None:
            for adapter, step in zip(three, alone, strict=True):
                with adapter.attached():
                    step()

        joint = stepping([p for one in three for p in one.parameters()], joint_loss)
        found[name] = {"one after another": Timed(one_after_another), name: Timed(joint, around)}
    return found


def generations(model, plain, rows: int, new: int) -> dict[str, Timed]:
    """Greedy generation of so many tokens for each of the rows: Hugging Face's, and the package's with each adapter."""
    import torch

    from aligner_probe.evaluation.generation import generate_ids

    sequences = encoded(model, rows)
    prompts = [sequences.ids[start : start + N_PROMPT].tolist() for start in sequences.offsets.tolist()]
    ids = torch.tensor(prompts)
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def by_hugging_face():
        return plain.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)[:, N_PROMPT:].tolist()

    def ours():
        return generate_ids(model, prompts, max_new_tokens=new)

    made = {FLOOR: Timed(by_hugging_face), AGAIN: Timed(by_hugging_face), "no adapter": Timed(ours)}
    return made | {name: Timed(ours, make(model).attached) for name, make in adapters().items()}


def measured(made: dict[str, Timed], rounds: int) -> dict[str, Times]:
    """Everything once to warm up, then the rounds; the first is the floor."""
    floor = next(iter(made))

    def run(name: str) -> tuple[float, float]:
        with made[name].around():
            return timed(made[name].call)

    for name in made:
        run(name)
    return paired(made, floor, rounds, run)


def table(times: dict[str, Times], floor: str, what: str, scale: float = 1.0) -> str:
    """The results as a Markdown table; milliseconds are multiplied by `scale`."""
    lines = [
        f"| {what} | CPU ms, median | wall / floor [quartiles] | CPU / floor [quartiles] |",
        "|---|---:|---:|---:|",
    ]
    every = [seconds for its in times.values() for seconds in its.floor_cpu]
    lines.append(f"| {floor} | {1000 * scale * statistics.median(every):.1f} | 1 | 1 |")
    for name, its in times.items():
        lines.append(f"| {name} | {1000 * scale * statistics.median(its.cpu):.1f} | {its.said()} |")
    return "\n".join(lines)


def put_back(threads: int) -> None:
    """The number of threads that a process had, for one that goes on after `main`."""
    import torch

    import aligner_probe as ap

    ap.set_threads(None)
    torch.set_num_threads(threads)


def main() -> None:
    parser = setting.parser(__doc__.splitlines()[0], 12)
    parser.add_argument("--model", default=os.environ.get(VARIABLE), help=f"folder of a Llama (default: ${VARIABLE})")
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--new", type=int, default=32, help="tokens to generate (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--only", choices=PARTS, help="one part of the three")
    options = parser.parse_args()
    if not options.model:
        parser.error(f"--model: name the folder of a model, or set ${VARIABLE}")
    if min(options.rounds, options.rows, options.threads) < 1 or options.new < 2:
        parser.error("--rounds, --rows, --threads: at least 1; --new: at least 2")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    import aligner_probe as ap
    from aligner_probe.models import load_plain

    ap.set_threads(options.threads)
    model = ap.load_model(options.model)
    results: dict[str, dict[str, Times]] = {}

    def plain():
        return load_plain(options.model, torch.float32).requires_grad_(False).eval()

    if options.only in (None, "step"):
        results["a training step"] = measured(steps(model, plain(), options.rows), options.rounds)
        print(table(results["a training step"], FLOOR, f"a step of {options.rows} rows"), "\n", flush=True)
    if options.only in (None, "together"):
        its: dict[str, Times] = {}
        for name, both in together(model, options.rows).items():
            its[name] = measured(both, options.rounds)[name]
        results["together"] = its
        print(table(its, "three steps", f"three adapters on {options.rows} rows each, in one batch"), "\n", flush=True)
    if options.only in (None, "generation"):
        base = plain()
        for rows in (1, options.rows):
            what = f"generation of {options.new} tokens, prompts {rows}"
            results[what] = measured(generations(model, base, rows, options.new), options.rounds)
            print(table(results[what], FLOOR, f"{what}, a token", 1 / options.new), "\n", flush=True)
    described = (
        f"{Path(options.model).name}, float32, {options.threads} threads, {options.rounds} rounds, "
        f"{time.strftime('%Y-%m-%d')}"
    )
    print(f"{described}\n{machine()}")
    times = {part: {name: asdict(one) for name, one in its.items()} for part, its in results.items()}
    setting.write(options.json, described, machine(), {"times": times})


if __name__ == "__main__":
    main()
