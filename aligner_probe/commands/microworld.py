"""Pretrain the micro-world's base model, examine it, or write its corpus or its tasks of known nature.

aligner-probe microworld exam
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.options import Parser, add_threads, command_parser, use_threads
from aligner_probe.errors import AlignerProbeError

WORK = Path("out/microworld")
#: What `exam` prints of a section; the widest name has 46 characters.
LINE = "{name:<46} {n:>5} {score:>7.3f}  {bound:<14} {verdict}"


def parser() -> Parser:
    parser = command_parser("microworld")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pretrain = commands.add_parser("pretrain", help="train the base model from the seed", add_help=True)
    pretrain.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the model (default: artifacts/microworld)"
    )
    pretrain.add_argument(
        "--work", type=Path, default=WORK, metavar="DIR", help=f"the folder of metrics and state (default: {WORK})"
    )
    pretrain.add_argument("--resume", action="store_true", help="go on with what is in the work folder")
    pretrain.add_argument("--steps", type=int, metavar="N", help="stop after step N, to go on later")
    pretrain.add_argument("--device", default="cpu", help="for instance cuda (default: cpu)")
    add_threads(pretrain)
    exam = commands.add_parser("exam", help="ask the model everything; exit code 1 where it falls short")
    exam.add_argument("--model", default="microworld", metavar="M", help="a folder (default: the one shipped)")
    exam.add_argument("--items", type=int, default=200, metavar="N", help="questions a section (default: 200)")
    exam.add_argument("--json", type=Path, metavar="FILE", help="write the results there as well")
    add_threads(exam)
    corpus = commands.add_parser("corpus", help="write the corpus as text, a document a paragraph")
    corpus.add_argument("--out", type=Path, required=True, metavar="FILE")
    corpus.add_argument("--documents", type=int, metavar="N", help="the first N (default: all)")
    panel = commands.add_parser("panel", help="write the tasks of known nature as JSONL")
    panel.add_argument(
        "--out", type=Path, metavar="DIR", help="the folder of the tasks (default: aligner_probe/tasks/panel)"
    )
    for command in (pretrain, exam, corpus, panel):
        command.add_argument("--seed", type=int, default=0, help="of the world and all that follows (default: 0)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    return {"pretrain": _pretrain, "exam": _exam, "corpus": _corpus, "panel": _panel}[options.command](options)


def _pretrain(options: argparse.Namespace) -> int:
    use_threads(options.threads)

    from aligner_probe.artifacts import MICROWORLD, artifacts_folder
    from aligner_probe.microworld.pretrain import Pretraining, pretrain

    out = options.out or artifacts_folder() / MICROWORLD
    with going_on(lambda: messages.PRETRAINING_KEPT.format(work=options.work)):
        finished = pretrain(
            out,
            Pretraining(seed=options.seed),
            work=options.work,
            device=options.device,
            resume=options.resume,
            steps=options.steps,
        )
    print(f"saved {out}" if finished else f"stopped at step {options.steps}; go on with --resume")
    return 0


def _exam(options: argparse.Namespace) -> int:
    use_threads(options.threads)

    from aligner_probe.evaluation.generation import generate
    from aligner_probe.files import write_text
    from aligner_probe.microworld.exam import MAX_NEW_TOKENS, examine
    from aligner_probe.microworld.world import World
    from aligner_probe.models import fingerprint, load_model, threads_for

    if options.items < 1:
        raise AlignerProbeError(f"--items {options.items}; expected 1 or more")
    model = load_model(options.model)
    print(f"threads: {threads_for(model)}")

    def answer(prompts: Sequence[str]) -> list[str]:
        return generate(model, prompts, max_new_tokens=MAX_NEW_TOKENS, stop=["\n"], batch_size=256, show_progress=True)

    report = examine(World.from_seed(options.seed), answer, n_items=options.items)
    rows = report.to_frame().to_dict("records")
    for row in rows:
        verdict = "" if not row["bound"] else "ok" if row["passed"] else "SHORT"
        print(
            LINE.format(
                name=row["section"], n=row["n"], score=row["score"], bound=row["bound"], verdict=verdict
            ).rstrip()
        )
    short = sum(not row["passed"] for row in rows)
    print(f"{'passed' if report.passed else f'{short} sections fall short'}; greedy generation, seed {options.seed}")
    if options.json is not None:
        content = {"seed": options.seed, "fingerprint": fingerprint(model), "passed": report.passed, "sections": rows}
        write_text(options.json, json.dumps(content, indent=2) + "\n")
    return 0 if report.passed else 1


def _corpus(options: argparse.Namespace) -> int:
    from aligner_probe.files import staging_folder, writing_to
    from aligner_probe.microworld.corpus import N_DOCUMENTS, Writer
    from aligner_probe.microworld.world import World

    writer = Writer(World.from_seed(options.seed), options.seed)
    out: Path = options.out
    with writing_to(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(out.parent) as stage:
            with (stage / out.name).open("w", encoding="utf-8") as file:
                for document in writer.documents(options.documents or N_DOCUMENTS):
                    file.write(document.text + "\n\n")
            (stage / out.name).replace(out)
    print(f"saved {out}")
    return 0


def _panel(options: argparse.Namespace) -> int:
    from aligner_probe.microworld.panel import panel, write_panel
    from aligner_probe.microworld.world import World
    from aligner_probe.tasks.panel import PANEL

    out = options.out or PANEL
    tasks = panel(World.from_seed(options.seed), options.seed)
    write_panel(tasks, out)
    print(f"saved {len(tasks)} tasks in {out}")
    return 0
