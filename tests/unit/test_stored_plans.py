"""Plans are the same to the byte as those that older versions wrote, so that folders begun by them go on."""

import hashlib
import json

import pytest

from aligner_probe.artifacts import artifact
from aligner_probe.probing.plan import BUDGETS, plan
from aligner_probe.reproduction.plan import Config, learning_rates, plan_json
from aligner_probe.reproduction.plan import plan as reproduction_plan

#: SHA-256 of the text of plan.json for a base model named "b", as it is since prompt tuning and a second candidate for
#: the reference stand in every budget, and arms on few examples in the two larger ones.
WRITTEN = {
    "quick": "12ae7da1f0a7f2e62d39960e0c65b0435a42a5dc15514fdb2d059fd92335d0d7",
    "standard": "b4afb8ffef5fe23b3360374b3adeb1da8aa6522d98ea72ec0738468d8b6c87c6",
    "thorough": "526038ef2b97ccdfe1ee8c285c0c9f84a29defa6e710d2c8f52cfb2b83f6e8ac",
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
