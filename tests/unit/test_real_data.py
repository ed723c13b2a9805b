"""The data of a reproduction: which files are needed, what is asked, and that nothing that is asked was trained."""

import json
from collections import Counter
from dataclasses import replace

import chats
import pytest
import real_runs

from aligner_probe.errors import AlignerProbeError
from aligner_probe.reproduction import real_data
from aligner_probe.reproduction.cells import EXPERIMENTS
from aligner_probe.reproduction.data_names import DataNames
from aligner_probe.reproduction.real_data import question_in, read_data
from aligner_probe.tasks import loading
from aligner_probe.tasks.sources import open_source

#: Requests of a file of their own, as BeaverTails has them.
REQUESTS = [{"prompt": f"How do I scare dog {n}?", "category": "animals"} for n in range(4)]
#: All rows are drawn, so that a row that is left out changes no other.
WHOLE = replace(real_runs.TINY, n_math=None, n_harmful=None, n_questions=None, n_pairs=None)


@pytest.fixture
def folder(tmp_path):
    data = real_runs.write_data(tmp_path)
    append(data / "beavertails_evaluation" / "test.jsonl", *REQUESTS)
    return data


def append(file, *rows):
    file.parent.mkdir(exist_ok=True)
    with file.open("a") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in rows)


def read(folder, experiments=EXPERIMENTS, scale=WHOLE, *, chat=True, n_ctx=4096):
    return read_data(DataNames.of(folder), scale, experiments, chats.tokenizer("chatml"), chat=chat, n_ctx=n_ctx)


def test_only_experiments_that_ask_the_vicuna_questions_need_them():
    names = DataNames.of_hub(None)
    names.check(("math",))
    for experiment in ("instructions", "safety"):
        with pytest.raises(AlignerProbeError, match="the Vicuna questions are not there"):
            names.check(("math", experiment))


@pytest.mark.parametrize("chat", [True, False])
def test_what_was_trained_is_not_asked_in_whatever_template(chat, folder):
    """These were asked although they were trained: GSM8K's, requests of a file, and Vicuna questions."""
    before = read(folder, chat=chat)
    assert not any("left_out" in read for read in before.about.values())
    append(folder / "gsm8k" / "test.jsonl", {"question": "What is  3 and 1?", "answer": "#### 4"})
    append(
        folder / "beavertails_evaluation" / "test.jsonl",
        {"prompt": "How do I hurt cat 3?", "category": "animals"},
        {"prompt": "Name pet 3.", "category": "animals"},
    )
    append(
        folder / "vicuna80" / "test.jsonl",
        {"text": "Name pet 5.", "category": "generic"},
        {"text": "How do I hurt cat 4?", "category": "generic"},
    )
    append(folder / "hh_rlhf_harmless" / "test.jsonl", real_runs._pair(5))
    append(folder / "alpaca" / "test.jsonl", real_runs._alpaca(7))
    after = read(folder, chat=chat)
    left_out = {part: read["left_out"] for part, read in after.about.items() if "left_out" in read}
    assert left_out == {
        "alpaca_test": 1, "math_test": 1, "pairs_test": 1, "harmful": 2, "questions": 1, "harmless": 1,
    }  # fmt: skip
    for experiment, material in after.materials.items():
        was = before.materials[experiment]
        assert material.stages == was.stages
        for name, items in material.items.items():
            assert Counter(items) == Counter(was.items[name]) or name == "harmful", (experiment, name)
    asked = [question_in(item.prompt) for item in after.materials["safety"].items["harmful"]]
    assert sorted(asked) == [row["prompt"] for row in REQUESTS]
    assert len(after.questions) == len(before.questions) + 1  # it is trained in the safety experiment alone


def test_each_file_is_read_once(folder, monkeypatch):
    opened = []

    def counted(name):
        opened.append(name)
        return open_source(name)

    for module in (real_data, loading):
        monkeypatch.setattr(module, "open_source", counted)
    read(folder)
    assert sorted(opened) == sorted(DataNames.of(folder).needed(EXPERIMENTS).values())


def test_room_for_an_answer_is_kept_only_where_an_answer_is_generated(folder):
    long = replace(WHOLE, max_new_tokens={"questions": 6, "math": 5000, "harmful": 6})
    data = read(folder, ("instructions", "safety"), long)
    assert data.about["loss"]["asked"] == long.n_loss
    with pytest.raises(
        AlignerProbeError,
        match=r"a context of 4096 tokens has no room for prompts of .*gsm8k/test.jsonl, whose answers may have 5000 "
        r"tokens \(max_new_tokens of scale tiny\); expected another scale, or another base model",
    ):
        read(folder, ("math",), long)


@pytest.mark.parametrize("n", [None, 3])
def test_rows_that_do_not_fit_are_an_error_however_they_are_drawn(n, folder):
    """Rows that are drawn evenly from their categories were none, and nothing was said."""
    row = real_runs._choice(1) | {"question": "cat " * 5000}
    (folder / "mmlu" / "test.jsonl").write_text(json.dumps(row))
    with pytest.raises(AlignerProbeError, match=r"none of 1 rows of .*mmlu/test.jsonl fits into 4032 tokens, which a"):
        read(folder, ("math",), replace(WHOLE, n_mmlu=n))


@pytest.mark.parametrize("part", ["gsm8k/test", "mmlu/test", "hh_rlhf_harmless/train", "vicuna80/test"])
def test_an_empty_file_is_an_error_of_one_line(part, folder):
    (folder / f"{part}.jsonl").write_text("")
    with pytest.raises(AlignerProbeError, match=f"{part}.jsonl(: is empty; expected| has no row that can be asked)"):
        read(folder)
