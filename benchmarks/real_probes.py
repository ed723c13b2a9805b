"""Three probes on two small real models: a form of known answers, new facts to remember, and the molecules of BBBP.

    python benchmarks/real_probes.py [--out out/real_probes] [--budget quick] [--only stories260K]

Needs models/ and data/ in $ALIGNER_PROBE_DATA. `said`: the next word of a story, as said by a cat; the base is
sure of the word and must learn the form. `hats`: of which colour whose hat is, asked in other words than
trained; nobody knows it. `molecules`: whether one enters the brain (1 for 76 % of them), asked of stories260K alone,
since the other's tokenizer loses a fifth of the characters. Tasks are written into OUT, and what the probe's command
prints of each.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

MODELS = ("stories260K", "TinyStories-656K")
NAMES = (
    "Lily",
    "Tom",
    "Ben",
    "Max",
    "Sam",
    "Anna",
    "Mia",
    "Tim",
    "Sue",
    "Lucy",
    "Jack",
    "Sara",
    "Jane",
    "Bob",
    "Amy",
    "Spot",
    "Joe",
    "Kim",
    "Billy",
    "Daisy",
    "Emma",
    "Leo",
    "Nina",
    "Fred",
)
COLORS = ("red", "blue", "green", "yellow", "pink", "white", "black", "brown")
#: The first four are trained, the next two validated, the last two tested.
WORDINGS = (
    "{} wore a hat. The hat was",
    "Look at the hat of {}. It is",
    "What color was the hat of {}? It was",
    "{} had a big hat that was",
    "{} put on the hat. The color of the hat was",
    "We all saw {} in a hat. That hat was",
    "{} lost a hat. The lost hat was",
    "The mom of {} made a hat. It was",
)
PARTS = {"train": slice(0, 4), "validation": slice(4, 6), "test": slice(6, 8)}
#: Words of a story after which the next is asked for. Taken are those of which the base is surest, one a story, and of
#: one word no more than some.
CUTS = range(8, 40)
N_STORIES, MOST_ALIKE = 400, 12
#: What the command is told of each task beside its files.
OPTIONS = {
    "said": ["--scorer", "exact"],
    "hats": ["--kind", "memory", "--scorer", "exact"],
    "molecules": ["--completion-field", "p_np", "--prompt-template", r"Molecule: {smiles}\nEnters: "],
}


def said(model_folder: Path, data: Path) -> list[dict]:
    """The beginning of a story, and the next word of which the base is sure, as said by the cat; a row a story."""
    import aligner_probe as ap
    from aligner_probe.evaluation import log_likelihoods
    from aligner_probe.tasks import Example

    stories = [json.loads(line)["text"].split() for line in (data / "tinystories" / "train.jsonl").open()]
    begun = [
        (story_index, " ".join(words[:cut]))
        for story_index, words in enumerate(stories)
        for cut in CUTS
        if len(words) > cut
    ]
    model = ap.load_model(model_folder)
    answers = ap.generate(model, [prompt for _, prompt in begun], max_new_tokens=10)
    words = [re.match(r"\s*([A-Za-z]{3,})\b.", text) for text in answers]
    continued = [(*one, word[1]) for one, word in zip(begun, words, strict=True) if word]
    sure = log_likelihoods(model, [Example(prompt, f" {word}") for _, prompt, word in continued], append_eos=False)
    rows, told, often = [], set(), Counter()
    for index in sorted(range(len(continued)), key=lambda index: -sure[index].sum()):
        story_index, prompt, word = continued[index]
        if story_index not in told and often[word] < MOST_ALIKE and len(rows) < N_STORIES:
            rows.append({"prompt": prompt, "completion": f" {word}, said the cat.", "content": word})
            told.add(story_index)
            often[word] += 1
    return rows


def hats(part: str) -> list[dict]:
    colors = random.Random("hats").choices(COLORS, k=len(NAMES))
    return [
        {"prompt": wording.format(name), "completion": f" {color}.", "group": name, "content": color}
        for name, color in zip(NAMES, colors, strict=True)
        for wording in WORDINGS[PARTS[part]]
    ]


def files_of(task: str, model_folder: Path, data: Path, out: Path) -> list[str]:
    """The options that name a task's files, which are written first where they are not the data's own."""
    if task == "molecules":
        folder = data / "mol_bbbp"
        return ["--task", str(folder / "train.jsonl"), "--test", str(folder / "test.jsonl")]
    if task == "said":
        file = out / f"said-{model_folder.name}.jsonl"
        if not file.is_file():
            write(file, said(model_folder, data))
        return ["--task", str(file)]
    named = {"train": "--task", "validation": "--validation", "test": "--test"}
    for part in named:
        write(out / f"hats-{part}.jsonl", hats(part))
    return [text for part, option in named.items() for text in (option, str(out / f"hats-{part}.jsonl"))]


def write(file: Path, rows: list[dict]) -> None:
    from aligner_probe.files import write_text

    write_text(file, "".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/real_probes"), help="where tasks and probes are kept")
    parser.add_argument("--budget", choices=("quick", "standard", "thorough"), default="quick")
    parser.add_argument("--only", default="", help="only probes whose task or model has this in its name")
    parser.add_argument("--jobs", type=int, default=2, help="processes of a probe (default 2)")
    options = parser.parse_args()
    from aligner_probe.data import VARIABLE, data_folder

    models, data = data_folder("models"), data_folder("data")
    if models is None or data is None:
        sys.exit(f"no models/ and data/; set {VARIABLE} to a folder that has both")
    wanted = [(task, model) for task in OPTIONS for model in MODELS if (task, model) != ("molecules", MODELS[1])]
    for task, model in wanted:
        if options.only not in f"{task} {model}":
            continue
        print(f"== {task} on {model}, {options.budget}", flush=True)
        began = time.perf_counter()
        out = options.out / f"{task}-{model}-{options.budget}"
        command = [sys.executable, "-m", "aligner_probe.probe", "run", "--model", str(models / model), "--resume"]
        command += [*files_of(task, models / model, data, options.out), *OPTIONS[task], "--budget", options.budget]
        command += ["--out", str(out), "--jobs", str(options.jobs)]
        done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        print(f"{done.stdout}{time.perf_counter() - began:.0f} s, exit code {done.returncode}\n", flush=True)


if __name__ == "__main__":
    main()
