"""Let a base model with several adapters answer the same questions, all in the same batches.

aligner-probe generate --model M --adapter DIR [DIR ...] --questions FILE --out DIR
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.adapted import add_computation, load_adapted
from aligner_probe.commands.options import Group, Parser, command_parser, finite, positive, use_threads
from aligner_probe.commands.recipe_options import add_chat_template

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from aligner_probe.adapters.adapter import Adapter
    from aligner_probe.evaluation.questions import Question

SETTING, LOCK = "setting.json", "lock"
EPILOG = """\
OUT gets answers.jsonl, to which every batch is added at once; by_model/NAME.jsonl, the answers
of one adapter, which `evaluate judge --answers` takes; and side_by_side.html and .md. The same
command goes on where it was stopped.

example:
  aligner-probe generate --model microworld --adapter out/aligner1/adapter out/lora/adapter \\
      --base --questions questions.jsonl --out out/answers
"""


def parser() -> Parser:
    parser = command_parser("generate", EPILOG)
    parser.add_argument("--model", required=True, metavar="M", help="the base model: a hub id, or a local folder")
    parser.add_argument(
        "--adapter", nargs="+", default=[], metavar="DIR", help="adapters: what ap.load_adapter reads, one or more"
    )
    parser.add_argument(
        "--questions",
        required=True,
        metavar="FILE",
        help="JSONL, JSON, CSV or Parquet with question (or prompt, text, instruction), messages or turns; question_id "
        "and category if there are any",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="OUT", help="the folder of the answers")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the adapters (default: from their paths)")
    parser.add_argument("--base", action="store_true", help="the base model without an adapter answers, too")
    parser.add_argument(
        "--judged", type=Path, metavar="FILE", help="show what a judge decided: a battles.jsonl of `evaluate judge`"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be generated, and stop")
    parser.add_argument("--force", action="store_true", help="use adapters that were trained on another base model")
    _add_asking(parser.add_argument_group("how questions are asked"))
    _add_generation(parser.add_argument_group("how answers are generated"))
    parser.add_reading_options()
    return parser


def _add_asking(group: Group) -> None:
    group.add_argument("--prompt-template", metavar="TEXT", help="the prompt with {field}s; \\n is a new line")
    group.add_argument("--as-chat", action="store_true", help="ask each question as what a user says to a chat model")
    group.add_argument("--system", metavar="TEXT", help="with --as-chat: a system message for all questions")
    add_chat_template(group)


def _add_generation(group: Group) -> None:
    group.add_argument(
        "--max-new-tokens", type=positive, default=256, metavar="N", help="most tokens of an answer (default: 256)"
    )
    group.add_argument(
        "--stop", nargs="+", default=[], metavar="TEXT", help="texts that end an answer; \\n is a new line"
    )
    group.add_argument(
        "--temperature", type=finite, default=0.0, metavar="X", help="0 for the most likely tokens (default: 0)"
    )
    group.add_argument("--top-k", type=positive, metavar="K", help="draw from the K most likely tokens (default: all)")
    group.add_argument(
        "--top-p", type=finite, default=1.0, metavar="P", help="draw from the most likely tokens that have P together"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="what draws follow from (default: 0)")
    group.add_argument(
        "--batch-size", type=positive, default=32, metavar="N", help="answers generated at once (default: 32)"
    )
    add_computation(group)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if not options.adapter and not options.base:
        parser().error("no adapter and no --base, so nobody answers; give --adapter DIR")
    use_threads(options.threads)

    from aligner_probe.evaluation.answers import BASE, answer_all, has_answers, names_for, read_answers, write_by_model
    from aligner_probe.evaluation.sampling import sampling_for
    from aligner_probe.figures.side_by_side import read_battles, write_pages
    from aligner_probe.files import held
    from aligner_probe.jobs.folder import begin

    sampling_for(1, **_sampling(options), seed=options.seed)
    names = [*([BASE] if options.base else []), *names_for(options.adapter, options.names)]
    questions = _questions(options)
    if options.dry_run:
        _print_plan(options, questions, names, len(read_answers(options.out, questions, names)))
        return 0
    model, adapters = load_adapted(options, names)
    with held(options.out / LOCK, messages.ANSWERS_TAKEN.format(out=options.out)):
        if not has_answers(options.out):
            # A command that failed before its first answer may be given again with other options.
            (options.out / SETTING).unlink(missing_ok=True)
        begin(options.out, {SETTING: _setting(options, model, questions, adapters)}, messages.OTHER_ANSWERS)
        with going_on(lambda: messages.ANSWERS_BEGUN.format(out=options.out)):
            answers = answer_all(
                model,
                questions,
                adapters,
                options.out,
                batch_size=options.batch_size,
                max_new_tokens=options.max_new_tokens,
                stop=_stops(options),
                seed=options.seed,
                **_sampling(options),
            )
        files = write_by_model(options.out, questions, names, answers)
        battles = {} if options.judged is None else read_battles(options.judged, answers, names)
        pages = write_pages(options.out, questions, names, answers, battles, _about(options))
    for file in (*files, *pages):
        print(f"made {file}")
    return 0


def _questions(options: argparse.Namespace) -> "list[Question]":
    from aligner_probe.evaluation.questions import read_questions
    from aligner_probe.tasks.templates import unescape

    return read_questions(
        options.questions,
        template=None if options.prompt_template is None else unescape(options.prompt_template),
        as_chat=options.as_chat,
        system=None if options.system is None else unescape(options.system),
    )


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    return {"temperature": options.temperature, "top_k": options.top_k, "top_p": options.top_p}


def _stops(options: argparse.Namespace) -> list[str]:
    from aligner_probe.tasks.templates import unescape

    return [unescape(text) for text in options.stop]


def _setting(
    options: argparse.Namespace,
    model: "TransformerBridge",
    questions: "Sequence[Question]",
    adapters: "dict[str, Adapter | None]",
) -> str:
    """What the answers follow from, as JSON; a folder has the answers of one such setting."""
    from aligner_probe.checkpoints.adapters import computes_with
    from aligner_probe.fingerprints import fingerprint
    from aligner_probe.models import precision_in_words

    asked = [[question.id, str(question.prompt)] for question in questions]
    setting = {
        "base": {"fingerprint": fingerprint(model), "precision": precision_in_words(model)},
        "models": {name: None if one is None else computes_with(one) for name, one in adapters.items()},
        "questions": asked,
        "chat": {"as_chat": options.as_chat, "template": options.chat_template},
        "max_new_tokens": options.max_new_tokens,
        "stop": _stops(options),
        "seed": options.seed,
        **_sampling(options),
    }
    return json.dumps(setting, indent=1) + "\n"


def _about(options: argparse.Namespace) -> str:
    """A line on how the answers were made."""
    how = "Greedy answers"
    if options.temperature:
        how = f"Answers drawn with temperature {options.temperature:g} and seed {options.seed}"
    return f"{how} of {options.model}, at most {options.max_new_tokens} tokens; all questions, in their order."


def _print_plan(options: argparse.Namespace, questions: "Sequence[Question]", names: Sequence[str], done: int) -> None:
    from aligner_probe.checkpoints.adapters import method_of

    reading = {"gate": options.gate, "adapter_length": options.adapter_length}
    methods = [method_of(path, **reading) for path in options.adapter]
    for name, method in zip(names[len(names) - len(methods) :], methods, strict=True):
        print(f"{name}: {method}")
    left = len(questions) * len(names) - done
    batches = -(-left // options.batch_size)
    print(messages.ANSWERS_PLANNED.format(n=len(questions), models=len(names), done=done, left=left, batches=batches))
