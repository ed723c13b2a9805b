"""The options that say who judges, and how it is asked; shared by the evaluations."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_probe.commands import messages
from aligner_probe.commands.options import Group, Parser, add_threads, finite, positive, use_threads
from aligner_probe.errors import AlignerProbeError

if TYPE_CHECKING:
    from aligner_probe.judging.asks import Ask, Judge
    from aligner_probe.judging.evaluate import Setting

ENDPOINT = "endpoint:"
RULES = "rules"


def add_judge(parser: Group) -> None:
    """Add the options of a judge; `setting_of` reads them."""
    parser.add_argument(
        "--judge",
        required=True,
        metavar="J",
        help="endpoint:MODEL (at $OPENAI_BASE_URL, with $OPENAI_API_KEY), the folder of a model, or rules (those of "
        "the micro-world, for its questions)",
    )
    parser.add_argument(
        "--repeat",
        type=positive,
        default=1,
        metavar="N",
        help="ask everything N times: does the judge contradict itself?",
    )
    parser.add_argument(
        "--calibration",
        type=positive,
        default=24,
        metavar="N",
        help="on how many known answers the judge is tried first, for safety of each kind (default: 24)",
    )
    parser.add_argument(
        "--judge-prompts",
        type=Path,
        metavar="FILE",
        help="prompts in FastChat's form (default: the published ones of the data folder, else own ones)",
    )
    parser.add_argument(
        "--cache", type=Path, metavar="DIR", help="where the judge's answers are kept (default: the user's own cache)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print how often the judge would be asked, and stop")
    endpoint = parser.add_argument_group("an endpoint")
    endpoint.add_argument(
        "--verdicts",
        choices=("auto", "schema", "pattern"),
        default="auto",
        help="structured output, the pattern [[…]] in the text, or structured output until the server rejects it "
        "(default: auto)",
    )
    endpoint.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="a member of each request, for instance max_tokens=2048; null leaves one out (default: temperature=0, "
        "max_tokens=1024)",
    )
    endpoint.add_argument("--workers", type=positive, default=4, metavar="N", help="requests at a time (default: 4)")
    endpoint.add_argument(
        "--timeout", type=finite, default=120.0, metavar="S", help="seconds a server may be silent (default: 120)"
    )
    endpoint.add_argument(
        "--max-retries",
        type=int,
        default=5,
        metavar="N",
        help="how often the client tries a request again (default: 5)",
    )
    local = parser.add_argument_group("a model in a folder")
    local.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the model")
    local.add_argument("--device", help="for instance cuda (default: cpu)")
    local.add_argument("--max-new-tokens", type=positive, default=512, metavar="N", help="of an answer (default: 512)")
    local.add_argument("--batch-size", type=positive, default=8, metavar="N", help="prompts at a time (default: 8)")
    add_threads(local)


def setting_of(options: argparse.Namespace) -> "Setting":
    """The judge, its prompts and the folder of its answers.

    Raises AlignerProbeError for options that do not fit, and where the endpoint is not named.
    """
    from aligner_probe.judging.evaluate import Setting
    from aligner_probe.judging.prompts import read_prompts

    if options.timeout <= 0 or options.max_retries < 0:
        raise AlignerProbeError("--timeout is above 0 and --max-retries 0 or more; mend the command")
    use_threads(options.threads)
    return Setting.of(
        _judge(options),
        read_prompts(options.judge_prompts),
        options.cache or _own_cache(),
        repeats=options.repeat,
        n_known=options.calibration,
        show_progress=True,
    )


def usual_setting(judge: str, command: str) -> "Setting":
    """The setting of a judge with the default of every other option, for a `command` that has `--judge` alone."""
    parser = Parser(prog=command)
    add_judge(parser)
    return setting_of(parser.parse_args(["--judge", judge]))


def print_calls(known: "Sequence[Ask]", asks: "Sequence[Ask]", setting: "Setting") -> None:
    """Print how often the judge would be asked, for --dry-run."""
    from aligner_probe.judging.evaluate import calls

    where = f"answers in {setting.store.folder}" if setting.store.keeps else "its answers are not kept"
    print(f"judge: {setting.judge.name}; {where}")
    total = 0
    for what, needed in (("calibration", known), ("evaluation", asks)):
        n, missing = calls(needed, setting)
        total += missing
        print(f"{what}: {n} answers, {n - missing} on disk, {missing} to ask for")
    characters = sum(len(text) for ask in dict.fromkeys([*known, *asks]) for _, text in ask.messages)
    print(f"{total} calls; all prompts together have {characters:,} characters")


def exit_code(n_missing: int) -> int:
    """0 if the judge gave all answers; otherwise print how many are missing, and return 1."""
    if n_missing:
        print(messages.ANSWERS_MISSING.format(n=n_missing), file=sys.stderr)
    return 1 if n_missing else 0


def _judge(options: argparse.Namespace) -> "Judge":
    if options.judge == RULES:
        from aligner_probe.judging.rules import WorldRules

        return WorldRules()
    if options.judge.startswith(ENDPOINT):
        from aligner_probe.judging.endpoint import Endpoint

        model = options.judge.removeprefix(ENDPOINT)
        if not model:
            raise AlignerProbeError("--judge endpoint: names no model; expected endpoint:MODEL")
        return Endpoint.from_environment(
            model,
            verdicts=options.verdicts,
            settings=dict(map(_setting, options.setting)),
            workers=options.workers,
            timeout=options.timeout,
            max_retries=options.max_retries,
        )
    from aligner_probe.judging.local import LocalModel

    return LocalModel(
        options.judge,
        dtype=options.dtype,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.batch_size,
        device=options.device,
    )


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        return (name, json.loads(value)) if name and equals else _refuse(text)
    except ValueError:
        return name, value  # a word without quotation marks


def _refuse(text: str) -> Any:
    raise AlignerProbeError(f"--setting {text}; expected NAME=JSON, for instance max_tokens=2048")


def _own_cache() -> Path:
    import pooch

    return Path(pooch.os_cache("aligner_probe")) / "judges"
