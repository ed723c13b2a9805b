"""The reproduction as a study: its cells are the runs of the plan.

OUT/plan.json says what is made and OUT/items.json what is asked. Both are written first, and a folder that has others
is refused, so that no folder mixes runs of two plans or two base models.
"""

import json
from collections.abc import Sequence

from aligner_probe.models import fingerprint
from aligner_probe.reproduction.cells import ReproductionCell
from aligner_probe.reproduction.results import ITEMS, PLAN
from aligner_probe.reproduction.run import ReproductionBench, carry_out
from aligner_probe.reproduction.source import items_json
from aligner_probe.study import Study


def study_of(cells: Sequence[ReproductionCell], bench: ReproductionBench) -> Study[ReproductionCell]:
    """The study that makes the cells of a plan: `study_of(cells, bench).make(out, Processes(2))`.

    Some of them are made by `make(out, backend, only=some)`; plan.json then says the whole plan all the same.
    """
    files = {
        PLAN: bench.source.plan_json(cells, fingerprint(bench.model)),
        ITEMS: json.dumps(items_json(bench.source), indent=1) + "\n",
    }
    return Study(
        cells=tuple(cells),
        carry_out=carry_out,
        bench=bench,
        files=files,
        differs="another plan, base model, world or data than these",
        unit="runs",
    )
