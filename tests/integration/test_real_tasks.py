"""The real sets as they were published, and what real tokenizers make of them."""

import hashlib
import json

import pytest
import torch
from conftest import DATA
from texts import ALPACA_HEAD, ALPACA_HEAD_INPUT

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import encode, load_splits, load_task


def real(name):
    folder = DATA / "data" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set ALIGNER_PROBE_DATA to a folder with data/ in it")
    return folder


def raw(name, part="train"):
    return [json.loads(line) for line in (real(name) / f"{part}.jsonl").read_text().split("\n") if line]


def test_real_alpaca():
    rows = raw("alpaca")
    with pytest.raises(AlignerProbeError, match="line 1462: the completion is empty"):
        load_task(DATA / "data" / "alpaca")
    train, test = load_splits(DATA / "data" / "alpaca", flawed="drop")
    assert (train.name, train.format, len(train), len(test)) == ("alpaca", "Alpaca", 4998, 1000)
    assert [row.line for row in train.dropped] == [1462, 3588]
    for example in train.examples:
        row = rows[example.line - 1]
        assert example.completion == row["output"]
        assert example.prompt.startswith(ALPACA_HEAD_INPUT if row["input"] else ALPACA_HEAD)
    assert train.sha256 == hashlib.sha256((DATA / "data/alpaca/train.jsonl").read_bytes()).hexdigest()


def test_real_gsm8k(real_tokenizer):
    train, test = load_splits(real("gsm8k"))
    assert (train.format, len(train), len(test)) == ("GSM8K", 5000, 1000)
    assert [e.completion for e in test.examples] == [row["answer"] for row in raw("gsm8k", "test")]
    encoded = encode(test, real_tokenizer, max_length=256, overlong="drop")
    assert max(map(len, encoded.sequences)) <= 256
    assert encoded.n + encoded.n_dropped == 1000
    assert encoded.n_truncated == 0


def test_real_hh_rlhf(real_tokenizer):
    folder = real("hh_rlhf_harmless")
    task = load_task(folder, flawed="drop")
    assert (task.kind, task.format, len(task)) == ("preference", "HH-RLHF", 1793)
    assert {row.line for row in task.dropped} == {398, 572, 844, 857, 921, 1323, 1709}
    rows = raw("hh_rlhf_harmless")
    for example in task.examples:
        row = rows[example.line - 1]
        assert (example.prompt + example.chosen, example.prompt + example.rejected) == (row["chosen"], row["rejected"])
        assert example.prompt.endswith("\n\nAssistant:")
        assert "\n\nAssistant:" not in example.chosen + example.rejected
    # One prompt is in both files as they were published.
    with pytest.raises(AlignerProbeError, match=r"line 379 of .*line 1189 of .*what are racist words"):
        load_splits(folder, flawed="drop")
    encoded = encode(task, real_tokenizer, max_length=256)
    assert len(encoded.chosen) == len(encoded.rejected) == len(encoded.kept) == 1793 - encoded.n_dropped
    for chosen, rejected in zip(encoded.chosen, encoded.rejected, strict=True):
        n = chosen.n_prompt
        assert n == rejected.n_prompt < 256
        assert torch.equal(chosen.input_ids[:n], rejected.input_ids[:n])


def test_real_molecules_and_what_a_story_tokenizer_makes_of_them(real_tokenizer):
    train, test = load_splits(real("mol_bbbp"), prompt_template="SMILES: {smiles}\nCrosses:", completion_field="p_np")
    assert (len(train), len(test)) == (1640, 410)
    assert {example.completion for example in train.examples} == {"0", "1"}
    encoded = encode(test, real_tokenizer, max_length=512)
    if "TinyStories-656K" in real_tokenizer.name_or_path:
        # No byte fallback: brackets and bonds vanish without an unknown token.
        assert {"(", ")", "=", "@", "["} < set(encoded.lost)
        assert sum(encoded.lost.values()) > 0.15
    else:
        assert not encoded.lost


def test_real_stories(real_tokenizer):
    train, test = load_splits(real("tinystories"), prompt_template="", completion_field="text")
    assert (len(train), len(test), set(train.prompts)) == (800, 200, {""})
    encoded = encode(test, real_tokenizer, max_length=128)
    assert encoded.n == 200
    assert {len(sequence) for sequence in encoded.sequences} >= {128}


@pytest.mark.parametrize("name", ["mmlu", "wikitext2"])
def test_real_sets_of_no_known_format_name_the_way_on(name):
    with pytest.raises(AlignerProbeError, match=r"fit none of the known formats.*--prompt-template"):
        load_task(real(name))
