"""Evaluate models: their answers by a judge, in pairs, one by one or for safety, and benchmarks.

aligner-probe evaluate judge --answers OURS.jsonl THEIRS.jsonl --judge endpoint:MODEL --out DIR
aligner-probe evaluate safety --answers HARMFUL.jsonl --harmless HARMLESS.jsonl --judge endpoint:MODEL --out DIR
aligner-probe evaluate benchmark --model M --adapter DIR [DIR ...] --tasks mmlu,gsm8k --shots 1 --out DIR
"""

from collections.abc import Sequence

from aligner_probe.commands import evaluate_benchmark, evaluate_judge, evaluate_safety
from aligner_probe.commands.options import Parser, command_parser


def parser() -> Parser:
    parser = command_parser("evaluate", evaluate_judge.EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    evaluate_judge.add_options(
        commands.add_parser("judge", help="compare answers in pairs, or score them", epilog=evaluate_judge.EPILOG)
    )
    evaluate_safety.add_options(
        commands.add_parser(
            "safety", help="count harmful answers, and refusals of harmless requests", epilog=evaluate_judge.EPILOG
        )
    )
    evaluate_benchmark.add_options(
        commands.add_parser("benchmark", help="ask lm-eval's benchmarks of adapters", epilog=evaluate_benchmark.EPILOG)
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    commands = {
        "judge": evaluate_judge.evaluate,
        "safety": evaluate_safety.evaluate,
        "benchmark": evaluate_benchmark.evaluate,
    }
    return commands[options.command](options)
