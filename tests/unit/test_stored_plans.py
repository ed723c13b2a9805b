"""Plans are the same to the byte as those that older versions wrote, so that folders begun by them go on."""

import hashlib
import json

import pytest

from aligner_probe.artifacts import artifact
from aligner_probe.probing.plan import BUDGETS, plan
from aligner_probe.reproduction.plan import Config, learning_rates, plan_json
from aligner_probe.reproduction.plan import plan as reproduction_plan

#: SHA-256 of the text of plan.json for a base model named "b", as it is since prompt tuning and a second candidate for
#: the reference stand in every budget.
WRITTEN = {
    "quick": "04cf8f7c451d54fd02afac330ab2179367e62dd011c121c70c662e93885977ea",
    "standard": "81258760c20ba3ea6c320327ba183be21474072bab9c0ca59d45ef2bad466c36",
    "thorough": "931c6d8ad231ace1457e8b3feaca54266183233c50dcae25134a046faf0df5dd",
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
