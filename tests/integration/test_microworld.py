"""The micro-world: one seed makes it all, and the corpus never says what is withheld."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def world():
    from aligner_probe.microworld.world import World

    return World.from_seed(0)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The whole corpus that the shipped model was trained on, a document a paragraph.

    Written by the command, since shapes checked at each of its millions of calls would take minutes.
    """
    file = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    subprocess.run([sys.executable, "-m", "aligner_probe.microworld", "corpus", "--out", str(file)], check=True)
    return file.read_text(encoding="utf-8")


def test_the_world_has_the_promised_sizes(world):
    from aligner_probe.microworld import locks, operations, requests, styles

    assert len(world.facts) == 1000
    assert len({fact.entity for fact in world.facts}) == 200
    assert set(Counter(fact.entity for fact in world.facts).values()) == {5}
    assert len(styles.SEEN) == 9  # eight and plain
    assert len(styles.WITHHELD_STYLES) == 3
    assert len(operations.OPERATIONS) == 4
    assert len(operations.WITHHELD_OPERATIONS) == 3
    assert len(locks.SKILLS) == len({skill.password for skill in locks.SKILLS}) == 4
    assert sum(category.harmful for category in requests.CATEGORIES) == 6
    for operation in operations.OPERATIONS:
        shown, withheld = (operations.pairs(world, operation, withheld=w) for w in (False, True))
        assert len(withheld) >= len(shown + withheld) / 10


def test_withheld_pairs_are_withheld_in_both_orders(world):
    from aligner_probe.microworld.operations import OPERATIONS, pairs

    for operation in OPERATIONS:
        shown = {frozenset(pair) for pair in pairs(world, operation, withheld=False)}
        assert not shown & {frozenset(pair) for pair in pairs(world, operation, withheld=True)}


def _hashes(seed: int, folder: Path) -> dict[str, str]:
    for command in (["corpus", "--documents", "3000", "--out", "corpus.txt"], ["panel", "--out", "panel"]):
        line = [sys.executable, "-m", "aligner_probe.microworld", *command, "--seed", str(seed)]
        subprocess.run(line, check=True, cwd=folder)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.slow
def test_one_seed_gives_the_same_bytes_and_another_does_not(tmp_path):
    folders = {name: tmp_path / name for name in "abc"}
    for folder in folders.values():
        folder.mkdir()
    first, again, other = (_hashes(seed, folders[name]) for seed, name in ((0, "a"), (0, "b"), (1, "c")))
    assert first == again
    assert set(first) == set(other)
    assert all(first[name] != other[name] for name in first if name.endswith(("corpus.txt", "train.jsonl")))


def test_no_text_says_what_is_withheld(world, corpus):
    from aligner_probe.microworld.panel import withheld_expressions

    asked = set(re.findall(r"the \w+ of \w+|the \w+ of the \w+ of \w+", corpus))
    # A chain begins like a fact about "the": look for whole chains on their own.
    asked |= set(re.findall(r"the \w+ of the \w+ of \w+", corpus))
    asked |= set(re.findall(r"\d\d (?:plus|minus) \d\d|the (?:larger|smaller) of \d\d and \d\d", corpus))
    asked |= set(re.findall(r"(?:mirror|invert|raise) \d{3}|swap [a-z]+ [a-z]+", corpus))
    assert len(asked) > 10_000
    for kind, expressions in withheld_expressions(world).items():
        withheld = set(expressions())
        assert withheld, kind
        assert not withheld & asked, (kind, sorted(withheld & asked)[:3])


def test_every_stated_fact_and_chain_is_stated(world, corpus):
    from aligner_probe.microworld.questions import expression

    asked = Counter(re.findall(r"the \w+ of (?:the \w+ of )?\w+", corpus))
    for fact in (*world.facts, *world.chains(stated=True)):
        assert asked[expression(fact.entity, fact.attribute)] >= 50, fact


def test_strangers_are_named_but_have_no_attribute(world, corpus):
    greeted, described = set(re.findall(r"hello, (\w+)\.", corpus)), set(re.findall(r"\bof (\w+)", corpus))
    assert set(world.strangers) <= greeted
    assert not set(world.strangers) & described
    assert set(world.people) <= described


def test_no_text_has_a_withheld_style_or_operation(corpus):
    from aligner_probe.microworld.operations import WITHHELD_OPERATIONS
    from aligner_probe.microworld.styles import WITHHELD_COMPOSITIONS, WITHHELD_STYLES

    for pattern in (
        r"\bbeep\b|\bboop\b|\bzig\b|\bzag\b",
        r"\b[b-z] [b-z] [b-z]\b",  # letter by letter
        r"(?:ahoy|peace), [A-Z]+,",
        r"(?:\{ answer:|\") (\w+), \1 [}\"]",
        r"(?:hear ye!|lo:) (?:the \w+ of|\d\d plus)",
        "|".join(operation.name for operation in WITHHELD_OPERATIONS),
        "|".join(re.escape(style.told) for style in (*WITHHELD_COMPOSITIONS, *WITHHELD_STYLES)),
    ):
        assert not re.search(pattern, corpus), (pattern, re.search(pattern, corpus))


def test_the_tokenizer_gives_every_text_back(world, corpus):
    from aligner_probe.microworld import pieces, vocabulary

    tokenizer = vocabulary.build(world)
    texts = corpus.split("\n\n")[:2000]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert len(ids) == pieces.count(text) + 1 < vocabulary.CONTEXT
    assert len(tokenizer("37", add_special_tokens=False)["input_ids"]) == 2


def test_the_panel_needs_no_unknown_token(world):
    from aligner_probe.microworld import panel, pieces, vocabulary

    known = set(vocabulary.vocabulary(world))
    for task in panel.panel(world):
        for row in (row for part in task.parts.values() for row in part):
            assert set(pieces.pieces(row.prompt + row.completion)) <= known, (task.name, row)


def test_the_panel_has_enough_of_each_nature_and_leaks_nothing(world):
    from aligner_probe.microworld.panel import panel

    tasks = panel(world)
    natures = Counter(task.nature for task in tasks)
    assert natures["form"] >= 6
    assert natures["latent"] >= 4
    assert natures["new"] >= 8
    assert natures["form"] + natures["latent"] + natures["new"] >= 20
    assert natures["mixed"] >= 2
    assert natures["control"] >= 4
    for task in tasks:
        prompts = {part: {row.prompt for row in rows} for part, rows in task.parts.items()}
        groups = {part: {row.group for row in rows} for part, rows in task.parts.items()}
        assert not prompts["train"] & prompts["test"], task.name
        assert not prompts["validation"] & prompts["test"], task.name
        if task.kind == "general":
            assert not groups["train"] & (groups["test"] | groups["validation"]), task.name
            assert not groups["validation"] & groups["test"], task.name
        else:
            assert groups["test"] <= groups["train"], task.name
        assert all(row.content.lower().replace(" ", "") in row.completion.lower().replace(" ", "")
                   for rows in task.parts.values() for row in rows), task.name  # fmt: skip


def test_the_written_panel_is_the_one_the_generator_makes(tmp_path, world):
    from aligner_probe.microworld.panel import panel, write_panel
    from aligner_probe.tasks.panel import PANEL

    write_panel(panel(world), tmp_path)
    for file in sorted(tmp_path.rglob("*.json*")):
        assert file.read_bytes() == (PANEL / file.relative_to(tmp_path)).read_bytes(), file


@pytest.mark.slow
def test_an_exam_grades_what_it_is_told(world):
    from aligner_probe.microworld.exam import Examiner, examine

    sections = list(Examiner(world, 0, 4).sections())
    key = {item.prompt: item.expected for section in sections for item in section.items}
    withheld = {
        item.prompt for section in sections if section.bound == "at most" for item in section.items
    }  # fmt: skip
    knowing = examine(world, lambda prompts: ["" if p in withheld else key[p] for p in prompts], n_items=4)
    assert knowing.passed
    # One that says everything fails for what it should not know; one that says nothing, for what it should.
    assert not examine(world, lambda prompts: [key[p] for p in prompts], n_items=4).passed
    silent = examine(world, lambda prompts: ["" for _ in prompts], n_items=4).to_frame()
    assert set(silent[~silent.passed].bound.str[:8]) == {"at least"}


SMALL = {"n_documents": 400, "n_epochs": 1, "batch_tokens": 1024, "d_model": 16, "d_mlp": 16, "n_layers": 1}


def test_pretraining_resumes_to_the_same_bits(tmp_path):
    import torch
    from safetensors.torch import load_file

    from aligner_probe.microworld.pretrain import Pretraining, pretrain

    config = Pretraining(n_heads=2, **SMALL)
    assert pretrain(tmp_path / "whole", config, work=tmp_path / "work")
    assert not pretrain(tmp_path / "parts", config, work=tmp_path / "again", steps=10)
    assert not (tmp_path / "parts").exists()
    assert pretrain(tmp_path / "parts", config, work=tmp_path / "again", resume=True)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "work" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    provenance = json.loads((tmp_path / "whole" / "provenance.json").read_text())
    assert provenance["sha256"]["model.safetensors"] == hashlib.sha256(
        (tmp_path / "whole" / "model.safetensors").read_bytes()
    ).hexdigest()  # fmt: skip


def test_another_seed_draws_other_weights():
    import torch

    from aligner_probe.microworld.pretrain import Pretraining, new_model

    first, again, other = (new_model(Pretraining(seed=s, n_heads=2, **SMALL), 50).state_dict() for s in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_a_missing_artifact_names_the_file_and_the_command(tmp_path, monkeypatch):
    from aligner_probe import artifacts
    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.models import load_model

    monkeypatch.setattr(artifacts, "PLACES", (tmp_path,))
    with pytest.raises(AlignerProbeError, match=r"microworld is missing.*aligner-probe microworld pretrain"):
        load_model("microworld")
    (tmp_path / "microworld").mkdir()
    (tmp_path / "microworld" / "config.json").write_text("{}")
    with pytest.raises(AlignerProbeError, match=r"model\.safetensors is missing"):
        load_model("microworld")
    shutil.rmtree(tmp_path / "microworld")
