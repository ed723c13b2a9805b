"""Explain the equal parameters of two checkpoints by storage precision and a shared random start.

aligner-probe forensics A B [C ...] [--common-prefix] [--json FILE]
"""

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_probe.commands.options import Parser, command_parser

if TYPE_CHECKING:
    from aligner_probe.analysis.forensics import PairForensics

EPILOG = """\
verdicts:
  shared_start_rounding  both runs began from the same random values, and updates smaller than
                         half a ULP were lost: the equal parameters are the large ones
  continuation           one run goes on from the other
  independent            the runs began from different random values
  same_file              all parameters are the same
  undetermined           something else, or too little to tell; the explanation says which

example:
  aligner-probe forensics published:alpaca-1-7b published:metamath-1-7b
"""


def parser() -> Parser:
    parser = command_parser("forensics", EPILOG)
    parser.add_argument(
        "checkpoints",
        nargs="+",
        metavar="CHECKPOINT",
        help="two or more files or folders of any known format, or published:NAME; all pairs, in the order given",
    )
    parser.add_argument(
        "--common-prefix",
        action="store_true",
        help="compare checkpoints of different size over the first values that both have: a control for random values "
        "drawn from one stream",
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the findings here as well ('-': print JSON only)"
    )
    parser.add_reading_options()
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if len(options.checkpoints) < 2:
        parser().error("one checkpoint given; expected two or more to compare")

    from aligner_probe.analysis.forensics import compare_checkpoints
    from aligner_probe.checkpoints import load_checkpoint
    from aligner_probe.files import write_text

    loaded = [
        load_checkpoint(path, gate=options.gate, adapter_length=options.adapter_length) for path in options.checkpoints
    ]
    reports = [compare_checkpoints(a, b, common_prefix=options.common_prefix) for a, b in combinations(loaded, 2)]
    content = json.dumps({"pairs": [report.to_dict() for report in reports]}, indent=2, allow_nan=False) + "\n"
    if str(options.json) == "-":
        print(content, end="")
        return 0
    if options.json is not None:
        write_text(options.json, content)
    print("\n\n".join(describe(report) for report in reports))
    return 0


def describe(report: "PairForensics") -> str:
    """What was found about a pair, as text: equal values by magnitude, gates, movement and the verdict."""
    equality = report.equality
    prefix, gates = equality.prefix, equality.gates
    chance = max(prefix.expected_by_chance / prefix.n, equality.chance_share)
    compared = f"the first {prefix.n:,} parameters" if equality.common_prefix else f"{prefix.n:,} prefix parameters"
    lines = [
        f"a  {equality.label_a}  ({report.a}, {equality.dtype_a})",
        f"b  {equality.label_b}  ({report.b}, {equality.dtype_b})",
        "",
        f"{compared} on the grid of {equality.grid}: {prefix.n_equal:,} equal ({prefix.share_equal:.2%}; "
        f"by chance {chance:.2g}), correlation {_number(prefix.correlation)}, "
        f"mean |difference| {prefix.mean_abs_difference:.4g}"
        + ("" if prefix.ulps is None else f", median {_median(prefix.ulps):g} ULPs"),
    ]
    if len(equality.equal_per_token) > 1:
        per = equality.per_token
        lines.append(
            f"per token, of {equality.numbers_per_token:,}: mean {per['mean']:.2f} equal, sd {per['sd']:.1f}, "
            f"range {per['min']:.0f} to {per['max']:.0f}, n = {len(equality.equal_per_token)} tokens"
        )
    lines += ["", "  |value| = min(|a|, |b|)        n    equal   share   half a ULP"]
    for band in equality.bands:
        share = f"{band.share_equal:6.1%}" if band.n else "     -"
        lines.append(
            f"  [{band.low:<8g}, {band.high:>8g})  {band.n:9,} {band.n_equal:8,}  {share}   {band.half_ulp:.3g}"
        )
    lines.append("")
    if gates is None:
        lines.append("gates: different shapes, not compared")
    else:
        lines.append(f"gates: {gates.n_equal} of {gates.n} equal, correlation {_number(gates.correlation)}")
    lines += [_movement(report), _still(report), "", f"verdict: {report.verdict}", report.explanation]
    return "\n".join(lines)


def _movement(report: "PairForensics") -> str:
    parts = []
    for name, movement in zip("ab", report.movement, strict=True):
        gates = "not compared" if movement.gates is None else f"{movement.gates:.0%}"
        since = "from its start" if movement.from_start else "from the other run (no start stored)"
        parts.append(f"{name} {since}: tokens {movement.tokens:.0%}, gates {gates} of their size")
    return "movement (rms)  " + "; ".join(parts)


def _still(report: "PairForensics") -> str:
    known = [f"{name} {share:.1%}" for name, share in zip("ab", report.never_moved, strict=True) if share is not None]
    if known:
        return f"never moved from the stored start: {', '.join(known)}"
    return (
        f"never moved: at least {report.equality.share_equal:.1%} in each run (identical in both), assuming one start "
        "for both and that no number left and came back"
    )


def _median(values) -> float:
    import numpy as np

    return float(np.median(values))


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"
