"""What the trainings of a probe cost as it makes them, against the same ones one after another, plain and uncached.

    python benchmarks/probe_cost.py [--task panel:style_pirate] [--steps 24] [--rounds 3] [--arms aligner-1,lora-8]
    python benchmarks/probe_cost.py --steps 240 --rounds 1      # as long as a standard probe's
    python benchmarks/probe_cost.py --plain loop                # against a loop written by hand

Every run and every tried learning rate of the standard budget, full fine-tuning aside (it is conditional). As the probe
makes them, lower layers are kept for all runs and batches are shared where the plan says so; plain, each is `fit` with
`cache=False`, or by `--plain loop` the loop that one would write by hand: TransformerLens's own bridge without our
overlay, all positions unembedded. An arm's trainings are timed one way and right after, or before, by chance, the
other; the rounds take the arms in a random order. "Whole" is the sum over all arms of a round. Runs are shorter than a
probe's by `--steps`, with a validation every 20 steps as there, and none stops early, so both ways take the same steps.
What is asked of the trained models is the same both ways and is left out.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from setting import Times, machine, one_thread, timed

WHOLE = "whole"
#: Steps of a validation.
EVALUATE_EVERY = 20


def batches_of(probe, bench, arm: str) -> list[list[Callable]]:
    """An arm's trainings, in the batches of the plan; each is made when it is called."""
    from aligner_probe.arms.catalogue import ARMS, new_arm_adapter
    from aligner_probe.probing.cells import recipe_for, trained_on
    from aligner_probe.training import Training

    def training(cell, rate: float, steps: int):
        train, validation = trained_on(bench, cell)
        how = recipe_for(bench, cell, rate, steps)
        return Training(
            adapter=new_arm_adapter(arm, bench.model, cell.start_seed), task=train, validation=validation, recipe=how
        )

    batches = []
    for kind in ("tune", "train"):
        its = [cell for cell in probe.cells if (cell.arm, cell.kind) == (arm, kind)]
        method, width = ARMS[arm], bench.model.cfg.d_model
        if kind == "train":
            made = [[partial(training, cell, method.stored_rate_on(width), bench.budget.steps) for cell in its]]
        else:
            # Which of the rates are left for the second round is of no account here.
            rates = method.rates_on(width)
            made = [
                [partial(training, cell, rate, steps) for rate in rates[:n]]
                for cell in its
                for n, steps in bench.budget.tried(len(rates))
            ]
        for each in made:
            batches += [each[i : i + its[0].together] for i in range(0, len(each), its[0].together)]
    return batches


def by_hand(model, training) -> None:
    """One training as a user would write it: AdamW on all positions' logits, a validation every so many steps."""
    import torch
    from torch.nn.functional import cross_entropy

    from aligner_probe.tasks.encoding import IGNORED, collate, encode

    how, adapter = training.recipe, training.adapter
    trained = [p for p in adapter.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=how.lr, betas=how.betas, weight_decay=how.weight_decay)
    room = model.cfg.n_ctx - adapter.n_positions
    parts = [
        encode(task, model.tokenizer, max_length=room, append_eos=how.append_eos).sequences
        for task in (training.task, training.validation)
    ]
    generator, order = torch.Generator().manual_seed(how.seed), []

    def loss(sequences):
        batch = collate(sequences, model.tokenizer.pad_token_id or 0)
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED)

    with adapter.attached():
        for step in range(1, how.steps + 1):
            while len(order) < how.batch_size:
                order += torch.randperm(len(parts[0]), generator=generator).tolist()
            chosen, order = order[: how.batch_size], order[how.batch_size :]
            loss([parts[0][index] for index in chosen]).backward()
            torch.nn.utils.clip_grad_norm_(trained, how.clip)
            optimizer.step()
            optimizer.zero_grad()
            if step % how.evaluate_every == 0:
                with torch.no_grad():
                    for start in range(0, len(parts[1]), how.batch_size):
                        loss(parts[1][start : start + how.batch_size])


def measure(probe, bench, arms: list[str], rounds: int, plain) -> dict[str, Times]:
    """Times of each arm and of all, with the plain way as the floor: by hand where `plain` is a bench for that."""
    from tqdm.auto import tqdm

    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.training import fit_together

    def train(batches, **options) -> None:
        for batch in batches:
            for run in fit_together(bench.model, [make() for make in batch], show_progress=False, **options):
                if isinstance(run, AlignerProbeError):
                    raise run

    def train_by_hand(batches) -> None:
        for make in (make for batch in batches for make in batch):
            by_hand(plain.model, make())

    chance, order = random.Random(0), list(arms)
    times = {name: Times() for name in (*arms, WHOLE)}
    some = batches_of(probe, bench, arms[0])[-1][:1]
    train([some], cache=False)  # what is done once in a process
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        sums = dict.fromkeys(("wall", "cpu", "floor_wall", "floor_cpu"), 0.0)
        chance.shuffle(order)
        with tempfile.TemporaryDirectory() as kept:
            for arm in order:
                batches = batches_of(probe, bench, arm)
                if plain is None:
                    floor = partial(train, [[make] for batch in batches for make in batch], cache=False)
                else:
                    floor = partial(train_by_hand, batches_of(probe, plain, arm))
                ways = [("", partial(train, batches, cache_folder=kept)), ("floor_", floor)]
                chance.shuffle(ways)
                for prefix, way in ways:
                    for clock, seconds in zip(("wall", "cpu"), timed(way, bench.device or "cpu"), strict=True):
                        getattr(times[arm], prefix + clock).append(seconds)
                        sums[prefix + clock] += seconds
        for name, seconds in sums.items():
            getattr(times[WHOLE], name).append(seconds)
    return times


def table(times: dict[str, Times], probe) -> str:
    """The results as a Markdown table."""
    from aligner_probe.arms.catalogue import label_of

    lines = [
        "| arm | runs in a batch | plain, CPU seconds | wall / plain [quartiles] | CPU / plain [quartiles] |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, its in times.items():
        together = {cell.together for cell in probe.cells if cell.arm == name and cell.kind == "train"}
        label = label_of(name)
        batch = ", ".join(map(str, together)) or ""
        lines.append(f"| {label} | {batch} | {statistics.median(its.floor_cpu):.1f} | {its.said()} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="panel:style_pirate", help="JSONL, or panel:NAME (default: %(default)s)")
    parser.add_argument("--model", default="microworld", help="of the base (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="of a run (default: %(default)s; a probe's: 240)")
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is run (default: %(default)s)")
    parser.add_argument("--arms", help="some of them, with commas (default: all)")
    parser.add_argument("--plain", choices=("fit", "loop"), default="fit", help="what it is held against")
    parser.add_argument("--most-tokens", type=int, help="of a shared batch, instead of the plan's own rule")
    parser.add_argument("--device", help="for instance cuda (default: cpu)")
    parser.add_argument("--json", type=Path, help="write every single time there")
    options = parser.parse_args()
    if options.steps < 1 or options.rounds < 1:
        parser.error("--steps, --rounds: at least 1")
    one_thread()
    from aligner_probe.arms.catalogue import ARMS, PROBE_ARMS
    from aligner_probe.arms.names import CONDITIONAL
    from aligner_probe.models import load_model
    from aligner_probe.probing import batches
    from aligner_probe.probing.inputs import load_parts
    from aligner_probe.probing.plan import plan
    from aligner_probe.probing.probe import new_probe, with_batches

    arms = options.arms.split(",") if options.arms else [arm for arm in PROBE_ARMS if arm not in CONDITIONAL]
    if unknown := [arm for arm in arms if arm not in ARMS]:
        parser.error(f"--arms: there is no {unknown[0]!r}; there are {', '.join(ARMS)}")
    if options.most_tokens:
        batches.MOST_TOKENS = dict.fromkeys(batches.MOST_TOKENS, options.most_tokens)
    given = load_parts(options.task)
    every = min(EVALUATE_EVERY, options.steps)
    budget = plan("standard", steps=options.steps, evaluate_every=every, patience=options.steps + 1).budget
    probe = with_batches(
        new_probe(options.model, given.train, test=given.test, kind=given.kind, budget=budget, device=options.device)
    )
    plain = None
    if options.plain == "loop":
        if options.device:
            parser.error("--plain loop is for the CPU; leave out --device")
        plain = replace(probe.bench, loaded=load_model(options.model, fast=False))
    times = measure(probe.plan, probe.bench, arms, options.rounds, plain)
    described = (
        f"{options.task} on {options.model}: {len(probe.parts.train)} examples, {options.steps} steps a run, "
        f"{options.rounds} rounds, plain by {options.plain}, {time.strftime('%Y-%m-%d')}"
    )
    where = machine(options.device or "cpu")
    print(f"{described}\n{where}\n\n{table(times, probe.plan)}")
    if options.json:
        result = {"described": described, "machine": where, "times": {n: asdict(its) for n, its in times.items()}}
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
