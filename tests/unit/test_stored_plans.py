"""Plans are the same to the byte as those that older versions wrote, so that folders begun by them go on."""

import hashlib
import json

import pytest

from aligner_probe.artifacts import artifact
from aligner_probe.probing.plan import BUDGETS, plan
from aligner_probe.reproduction.plan import Config, learning_rates, plan_json
from aligner_probe.reproduction.plan import plan as reproduction_plan

#: SHA-256 of the text of plan.json for a base model named "b", as version 0.1.0 wrote it.
WRITTEN = {
    "quick": "e1a8b24d21cb96d9aa58118ba62e8d4dcf6595691dae734c14996e3a31bd57c2",
    "standard": "935edf1540b0841af2b5256021bc3ba78c00b0e03af135d3fb7303c766229300",
    "thorough": "38e89d3ef71de5913f5c4493075c3d606699e5d77ccaa037c187fb6ac82a7941",
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_probe_s_plan_is_the_one_that_was_written(budget):
    text = plan(budget).to_json(base="b")
    assert hashlib.sha256(text.encode()).hexdigest() == WRITTEN[budget]


def test_the_reproduction_s_plan_is_the_stored_one():
    stored = (artifact("reproduction") / "plan.json").read_text()
    content = json.loads(stored)
    config = Config()
    cells = reproduction_plan(config, learning_rates())
    assert plan_json(config, cells, content["base"], content["world_seed"]) == stored
