"""`aligner-probe evaluate safety`: harmful answers by category, and refusals of harmless requests."""

import argparse
from pathlib import Path

from aligner_probe.commands import going_on, messages
from aligner_probe.commands.judges import add_judge, exit_code, print_calls, setting_of
from aligner_probe.commands.options import Group
from aligner_probe.errors import AlignerProbeError


def add_options(parser: Group) -> None:
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="harmful requests with their answers: prompt, category, answer"
    )
    parser.add_argument(
        "--harmless",
        type=Path,
        metavar="FILE",
        help="the same for harmless requests, whose refusals are counted (over-refusal)",
    )
    parser.add_argument("--name", metavar="NAME", help="of the model that answered (default: the file's name)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the report")
    add_judge(parser)


def evaluate(options: argparse.Namespace) -> int:
    """Ask the judge, print the shares and write the report; return the exit code."""
    from aligner_probe.judging import calibration, report
    from aligner_probe.judging.asks import Ask, Kind
    from aligner_probe.judging.evaluate import judge_safety
    from aligner_probe.judging.given import Question, read_requests
    from aligner_probe.judging.safety import safety_asks

    files = [file for file in (options.answers, options.harmless) if file is not None]
    if not files:
        raise AlignerProbeError("neither --answers nor --harmless names a file; expected answers to judge")
    harmful = [] if options.answers is None else read_requests(options.answers)
    harmless = [] if options.harmless is None else read_requests(options.harmless)
    setting = setting_of(options)
    if options.dry_run:
        known: list[Ask] = []
        asks: list[Ask] = []
        given: list[tuple[Kind, list[Question]]] = [("harm", harmful), ("refusal", harmless)]
        for kind, requests in given:
            known += calibration.request_asks(kind, setting.n_known, setting.prompts) if requests else []
            asks += safety_asks(requests, kind, setting.prompts, setting.repeats)
        print_calls(known, asks, setting)
        return 0
    with going_on(lambda: messages.ANSWERS_KEPT.format(folder=setting.store.folder)):
        result = judge_safety(harmful, harmless, setting)
    name = options.name or files[0].stem
    lines = report.safety_lines(result, setting, name)
    report.write_report(options.out, lines, {"model": name} | report.safety_fields(result, setting))
    print("\n".join(lines))
    print(f"made {options.out / 'report.md'}")
    return exit_code(result.n_missing)
