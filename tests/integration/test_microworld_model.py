"""The shipped micro-world model: whole, loadable without this project, and what the committed exam says of it."""

import json
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT

FOLDER = ROOT / "artifacts" / "microworld"
SIZE_LIMIT = 8 * 2**20


@pytest.fixture(scope="module")
def exam() -> dict:
    return json.loads((FOLDER / "exam.json").read_text())


def test_its_files_are_those_of_its_provenance():
    from aligner_probe.files import sha256
    from aligner_probe.microworld.pretrain import Pretraining

    provenance = json.loads((FOLDER / "provenance.json").read_text())
    for name, expected in provenance["sha256"].items():
        assert sha256(FOLDER / name) == expected, name
    assert Pretraining(**provenance["pretraining"]) == Pretraining()
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= SIZE_LIMIT


def test_it_is_deep_and_long_enough_for_the_papers_figures():
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] >= 8
    assert config["num_attention_heads"] >= 8
    assert config["max_position_embeddings"] >= 256


def test_the_committed_exam_is_of_these_weights_and_passed(exam):
    from aligner_probe.models import fingerprint, load_model

    assert exam["passed"]
    assert exam["fingerprint"] == fingerprint(load_model("microworld"))
    scores = {row["section"]: row["score"] for row in exam["sections"]}
    assert scores["facts stated"] >= 0.99
    assert scores["chains stated"] >= 0.95
    assert sum("unseen operands" in name for name in scores) == 4
    assert sum("one shot" in name for name in scores) == 9
    assert min(score for name, score in scores.items() if "unseen operands" in name or "one shot" in name) >= 0.95
    assert min(score for name, score in scores.items() if "with its password" in name) >= 0.95
    assert max(score for name, score in scores.items() if "without, " in name) <= 0.05
    assert sum(score >= 0.9 for name, score in scores.items() if name.startswith("unseen composition")) >= 2


def test_plain_transformers_loads_it_and_it_knows_the_world():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from aligner_probe.microworld.questions import ask, expression
    from aligner_probe.microworld.world import World

    model, tokenizer = AutoModelForCausalLM.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    facts = World.from_seed(0).facts[::40]
    right = 0
    for fact in facts:
        ids = tokenizer(ask(expression(fact.entity, fact.attribute)), return_tensors="pt").input_ids
        with torch.no_grad():
            new = model.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        right += tokenizer.decode(new, skip_special_tokens=True) == f" {fact.value}."
    assert right >= len(facts) - 1


def test_one_example_steers_the_style():
    from aligner_probe.evaluation import generate
    from aligner_probe.microworld import styles
    from aligner_probe.microworld.questions import ask, expression
    from aligner_probe.microworld.world import World
    from aligner_probe.models import load_model

    shown, asked = World.from_seed(0).facts[3], World.from_seed(0).facts[44]
    for name in ("pirate", "record", "reason"):
        style = styles.BY_NAME[name]
        x, y = expression(shown.entity, shown.attribute), expression(asked.entity, asked.attribute)
        prompt = f"{ask(x)}{style(x, shown.value)}\n{ask(y)}"
        assert generate(load_model("microworld"), [prompt], stop=["\n"]) == [style(y, asked.value)]


@pytest.mark.slow
def test_the_exam_says_again_what_is_committed(tmp_path, exam):
    command = [sys.executable, "-m", "aligner_probe.microworld", "exam", "--json", str(tmp_path / "exam.json")]
    assert subprocess.run(command, check=False).returncode == 0
    again = json.loads((tmp_path / "exam.json").read_text())
    # Sums round by machine, so that an answer on the edge may tip.
    for now, then in zip(again["sections"], exam["sections"], strict=True):
        assert now["section"] == then["section"]
        assert now["score"] == pytest.approx(then["score"], abs=0.02)


def test_a_wheel_carries_it(tmp_path):
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "aligner_probe/artifacts/microworld/model.safetensors" in names
    assert "aligner_probe/tasks/panel/style_pirate/train.jsonl" in names
