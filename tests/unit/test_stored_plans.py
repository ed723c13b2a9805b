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
    "quick": "1fcf8c2cbb417fe4dd4ac2c3bab7b844a1f57f5086b7d93e2776f8e5cdb0487f",
    "standard": "dcdc24442fa0543bb959e3bdfb35578e51bfebdf45e22fb4c06c2cb850d79d32",
    "thorough": "a79eef51a3b301cf275fbf67d6f17166e09470d7c89e1ce34384605629e8631c",
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
