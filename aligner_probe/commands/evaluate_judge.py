"""`aligner-probe evaluate judge`: answers compared in pairs, or scored one by one."""

import argparse
from pathlib import Path

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.judges import add_judge, exit_code, print_calls, setting_of
from aligner_probe.commands.options import Group
from aligner_probe.errors import AlignerProbeError

EPILOG = """\
Every judge is tried first on answers whose rank is known; its accuracy stands beside every
result. Its answers are kept on disk, so the same command asks only for what is missing. Files
are JSONL. OUT gets report.md, report.json and, for pairs, battles.jsonl. The exit code is 1
where answers are missing at the end, and 2 where nothing could be done.
"""


def add_options(parser: Group) -> None:
    parser.add_argument(
        "--answers",
        nargs="+",
        required=True,
        type=Path,
        metavar="FILE",
        help="answers (answer, and question_id or question): two files are compared in pairs, one is scored",
    )
    parser.add_argument(
        "--questions",
        default="vicuna",
        metavar="Q",
        help="questions (question; question_id, category and reference if there are any), or vicuna, the paper's 80 "
        "questions in the data folder (default: vicuna)",
    )
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the answers (default: their files' names)")
    parser.add_argument("--single", action="store_true", help="give each answer points of 10, also with two files")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the report")
    add_judge(parser)


def evaluate(options: argparse.Namespace) -> int:
    """Ask the judge, print the rates and write the report; return the exit code."""
    names = options.names or [file.stem for file in options.answers]
    if len(options.answers) > 2 or len(names) != len(options.answers) or len(set(names)) < len(names):
        raise AlignerProbeError(
            f"{len(options.answers)} files of answers with the names {', '.join(names)}; expected one or two, each "
            "with a name of its own: --names"
        )
    return _single(options, names) if options.single or len(names) == 1 else _pairs(options, names)


def _pairs(options: argparse.Namespace, names: list[str]) -> int:
    from aligner_probe.judging import report
    from aligner_probe.judging.battles import Pair, asks_of
    from aligner_probe.judging.calibration import pair_asks
    from aligner_probe.judging.evaluate import judge_pairs
    from aligner_probe.judging.given import read_answers, read_questions

    questions = read_questions(options.questions)
    given = [read_answers(file, questions) for file in options.answers]
    pairs = [
        Pair(question.id, question.text, ours, theirs, question.category, question.reference)
        for question, ours, theirs in zip(questions, *given, strict=True)
    ]
    setting = setting_of(options)
    if options.dry_run:
        known = pair_asks(setting.n_known, setting.prompts)
        print_calls(known, asks_of(pairs, setting.prompts, setting.repeats), setting)
        return 0
    with going_on(lambda: messages.ANSWERS_KEPT.format(folder=setting.store.folder)):
        result = judge_pairs(pairs, setting)
    lines = report.pairs_lines(result, setting, *names)
    fields = {"ours": names[0], "theirs": names[1]} | report.pairs_fields(result, setting)
    report.write_report(options.out, lines, fields, report.battle_rows(result))
    print("\n".join(lines))
    print(f"made {options.out / 'report.md'}")
    return exit_code(result.n_missing)


def _single(options: argparse.Namespace, names: list[str]) -> int:
    from aligner_probe.judging import calibration, report
    from aligner_probe.judging.evaluate import judge_points, points_asks
    from aligner_probe.judging.given import read_answers, read_questions

    questions = read_questions(options.questions)
    given = {name: read_answers(file, questions) for name, file in zip(names, options.answers, strict=True)}
    setting = setting_of(options)
    if options.dry_run:
        known = calibration.points_asks(setting.n_known, setting.prompts)
        asks = [ask for answers in given.values() for ask in points_asks(questions, answers, setting)]
        print_calls(known, asks, setting)
        return 0
    with going_on(lambda: messages.ANSWERS_KEPT.format(folder=setting.store.folder)):
        result = judge_points(questions, given, setting)
    lines = report.points_lines(result, setting)
    report.write_report(options.out, lines, report.points_fields(result, setting))
    print("\n".join(lines))
    print(f"made {options.out / 'report.md'}")
    return exit_code(result.n_missing)
