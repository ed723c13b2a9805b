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
    "quick": "9b5bab45c546a15bebdfa2cead6632a8dae69ecb5c9f1e7ad07e690a75164ccf",
    "standard": "42ba8c7ac5a831fae255f518403760be0a189bdbe4a71988bb6b88b0793f7370",
    "thorough": "c5314df1514903b5a9fb3194571a146225c6f2c2d9cd97058e17af0eb5a819d2",
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
