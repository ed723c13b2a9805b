"""What small adapters learn on two small real models: validation loss before and after, on three real sets.

    python benchmarks/real_models.py [--out out/real_models] [--steps 60] [--only stories260K]

Needs models/ and data/ in $ALIGNER_PROBE_DATA. Trained are the next sentence of a story in capitals (which the bases
have hardly seen), Alpaca's answers, and HH-RLHF pairs by DPO after SFT on the chosen answers. A run that is finished is
a line in OUT/runs.jsonl and is not made again; the table is printed from there.
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

#: Models, and the first adapted layer: a quarter of their depth.
MODELS = {"stories260K": 1, "TinyStories-656K": 0}
SETS = ("capitals", "alpaca", "hh_rlhf")
#: Methods and their learning rate, tried on other rewrites of the stories only; DPO takes a tenth of it.
METHODS = {"Aligner-1": 2e-2, "Aligner-10": 2e-2, "LLaMA-Adapter-10": 2e-2, "LoRA r=8": 3e-3}
N_TRAIN, N_VALIDATION, MAX_LENGTH, SEED = 400, 60, 128, 0


def adapter_of(method: str, model, start_layer: int):
    import aligner_probe as ap

    make = {
        "Aligner-1": lambda: ap.Aligner(model, 1, start_layer, seed=SEED),
        "Aligner-10": lambda: ap.Aligner(model, 10, start_layer, seed=SEED),
        "LLaMA-Adapter-10": lambda: ap.LLaMAAdapter(model, 10, start_layer, seed=SEED),
        "LoRA r=8": lambda: ap.LoRA(model, 8, start_layer=start_layer, seed=SEED),
    }
    return make[method]()


def examples_of(name: str, data: Path, split: str, tokenizer) -> list:
    """Examples of one split that fit whole, the first ones in the file."""
    import aligner_probe as ap
    from aligner_probe.tasks import Example

    wanted = N_TRAIN if split == "train" else N_VALIDATION
    if name == "capitals":
        rows = [json.loads(line)["text"] for line in (data / "tinystories" / f"{split}.jsonl").open()]
        stories = [re.findall(r"[^.!?]+[.!?]+[\"']?", text.replace("\n", " ")) for text in rows]
        examples = [
            Example(f"{one.strip()} {two.strip()} ", three.strip().upper()) for one, two, three, *_ in stories if three
        ]
    elif name == "alpaca":
        task = ap.load_task(
            data / "alpaca" / f"{split}.jsonl", prompt_template="Question: {instruction}\nAnswer: ", flawed="drop"
        )
        examples = list(task.examples)
    else:
        examples = list(ap.load_task(data / "hh_rlhf_harmless" / f"{split}.jsonl", flawed="drop").examples)
    answers = ("chosen", "rejected") if name == "hh_rlhf" else ("completion",)
    chosen = []
    for example in examples:
        texts = [example.prompt + getattr(example, answer) for answer in answers]
        if all(len(ids) <= MAX_LENGTH - 4 for ids in tokenizer(texts)["input_ids"]):
            chosen.append(example)
        if len(chosen) == wanted:
            break
    return chosen


def tasks_of(name: str, data: Path, tokenizer) -> dict[str, tuple]:
    """Training and validation tasks of a set by stage: SFT, and DPO where it has pairs."""
    from aligner_probe.tasks import Example, Task

    splits = [examples_of(name, data, split, tokenizer) for split in ("train", "test")]
    if name != "hh_rlhf":
        return {"SFT": tuple(Task(name, "sft", tuple(split)) for split in splits)}
    chosen = [tuple(Example(pair.prompt, pair.chosen) for pair in split) for split in splits]
    return {
        "SFT": tuple(Task(f"{name} chosen", "sft", split) for split in chosen),
        "DPO": tuple(Task(name, "preference", tuple(split)) for split in splits),
    }


def runs_of(model_name: str, set_name: str, method: str, model, tasks: dict[str, tuple], steps: int) -> list[dict]:
    """One adapter through all stages of a set."""
    import aligner_probe as ap

    adapter = adapter_of(method, model, MODELS[model_name])
    rows = []
    for stage, (train, validation) in tasks.items():
        began = time.process_time()
        lr = METHODS[method] * (1 if stage == "SFT" else 0.1)
        recipe = ap.recipe(
            "corrected",
            train.kind,
            lr=lr,
            steps=steps,
            batch_size=16,
            max_length=MAX_LENGTH,
            evaluate_every=steps // 4 or 1,
            seed=SEED,
        )
        run = ap.fit(model, adapter, train, validation=validation, recipe=recipe, show_progress=False)
        rows.append(
            {
                "model": model_name,
                "set": set_name,
                "stage": stage,
                "method": method,
                "steps": steps,
                "trained": adapter.n_parameters,
                "examples": len(train),
                "before": float(run.validation_loss.iloc[0]),
                "after": run.best_validation_loss,
                "best_step": run.best_step,
                "cpu_seconds": time.process_time() - began,
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """Markdown: one row a model, set and stage; one column a method."""
    lines = [
        "| model | set | before | " + " | ".join(METHODS) + " |",
        "|---|---|---:|" + "---:|" * len(METHODS),
    ]
    for model in MODELS:
        for name in SETS:
            for stage in ("SFT", "DPO"):
                after = {r["method"]: r for r in rows if (r["model"], r["set"], r["stage"]) == (model, name, stage)}
                if after:
                    before = next(iter(after.values()))["before"]
                    cells = [f"{after[m]['after']:.3f}" if m in after else "" for m in METHODS]
                    lines.append(f"| {model} | {name}, {stage} | {before:.3f} | {' | '.join(cells)} |")
        counts = {r["method"]: r["trained"] for r in rows if r["model"] == model}
        if counts:
            cells = [f"{counts[m]:,}" if m in counts else "" for m in METHODS]
            lines.append(f"| {model} | trained parameters | | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/real_models"), help="where finished runs are kept")
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps a stage, of 16 examples (default 60)")
    parser.add_argument("--only", help="only runs whose model, set or method has this in its name")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error("--steps: at least 1")
    os.environ["OMP_NUM_THREADS"] = "1"
    from tqdm.auto import tqdm

    import aligner_probe as ap
    from aligner_probe.data import VARIABLE, data_folder

    models, data = data_folder("models"), data_folder("data")
    if models is None or data is None:
        sys.exit(f"no models/ and data/; set {VARIABLE} to a folder that has both")
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / "runs.jsonl"
    rows = [json.loads(line) for line in record.open()] if record.exists() else []
    rows = [row for row in rows if row["steps"] == options.steps]
    done = {(row["model"], row["set"], row["method"]) for row in rows}
    wanted = [
        (m, s, a) for m in MODELS for s in SETS for a in METHODS if not options.only or options.only in f"{m} {s} {a}"
    ]
    loaded: dict = {}
    for model_name, set_name, method in tqdm([key for key in wanted if key not in done], desc="runs"):
        if model_name not in loaded:
            loaded = {model_name: ap.load_model(models / model_name)}
        model = loaded[model_name]
        if set_name not in loaded:
            loaded[set_name] = tasks_of(set_name, data, model.tokenizer)
        made = runs_of(model_name, set_name, method, model, loaded[set_name], options.steps)
        rows += made
        with record.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in made))
    print(table(rows))
    print(f"\n{sum(row['cpu_seconds'] for row in rows):.0f} s of processor time in all, {len(rows)} trainings")


if __name__ == "__main__":
    main()
