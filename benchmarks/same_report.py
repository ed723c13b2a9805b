"""Do two commits give the same reports? Probes four tasks of the panel with few steps, and writes their reports.

    python benchmarks/same_report.py one.json                       # in a checkout of the first commit
    python benchmarks/same_report.py other.json --as one.json       # in a checkout of the second: says what differs

Seconds, provenance (versions, commit) and the scores of the samples, which older reports do not have, are left out.
Everything else has to be the same to the last digit, on the same machine with the same number of threads. `--steps 0`
takes the quick budget as it is, which takes an hour.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

TASKS = ("style_pirate", "locked_swap", "fresh_16", "operation_splice")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("out", type=Path, help="the file to write")
    made.add_argument("--as", dest="other", type=Path, help="the file of another commit, to compare with")
    made.add_argument("--tasks", nargs="+", default=TASKS, help="tasks of the panel")
    made.add_argument("--steps", type=int, default=12, help="steps of a run; 0: those of the quick budget")
    made.add_argument("--items", type=int, default=12, help="test items of a task, where --steps is not 0")
    return made


def reports(tasks: list[str], steps: int, items: int) -> dict:
    """The report of each task without seconds and provenance."""
    from aligner_probe.probing.inputs import load_parts
    from aligner_probe.probing.plan import BUDGETS
    from aligner_probe.probing.probe import carry_out_probe, new_probe, with_off_domain

    budget = BUDGETS["quick"]
    if steps:
        few = {"n_validation": items, "n_train_asked": items, "n_off_domain": items}
        budget = replace(budget, steps=steps, reference_steps=steps, evaluate_every=max(1, steps // 2), **few)
    by_task = {}
    for name in tasks:
        given = load_parts(f"panel:{name}")
        test = given.test
        if steps and test is not None:
            test = replace(test, examples=test.examples[:items])
        probe = new_probe(
            "microworld", given.train, test=test, validation=given.validation, kind=given.kind, budget=budget
        )
        with tempfile.TemporaryDirectory() as folder:
            report = carry_out_probe(with_off_domain(probe), folder, show_progress=False).report
            plan = json.loads((Path(folder) / "plan.json").read_text())
        runs = [{key: value for key, value in run.items() if key != "seconds"} for run in report["runs"]]
        samples = [{key: value for key, value in one.items() if key != "scores"} for one in report["samples"]]
        by_task[name] = {key: value for key, value in report.items() if key != "provenance"} | {
            "runs": runs,
            "samples": samples,
            "plan": plan,
        }
        print(f"{name}: {report['verdict']}", flush=True)
    return by_task


def main() -> int:
    options = parser().parse_args()
    text = json.dumps(reports(list(options.tasks), options.steps, options.items), indent=1, sort_keys=True) + "\n"
    options.out.write_text(text)
    if options.other is None:
        return 0
    ours, theirs = text.splitlines(), options.other.read_text().splitlines()
    differing = [(a, b) for a, b in zip(ours, theirs, strict=False) if a != b]
    print(f"{len(ours)} lines against {len(theirs)}, {len(differing)} of them differ")
    for ours_line, theirs_line in differing[:10]:
        print(f"  {ours_line.strip()}  |  {theirs_line.strip()}")
    return int(text != options.other.read_text())


if __name__ == "__main__":
    sys.exit(main())
