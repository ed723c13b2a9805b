"""The token ids and labels of conversations are those that TRL trains on, for SFT and for DPO."""

import chats
import pytest
from chats import KINDS, as_messages

from aligner_probe.tasks import collate, encode

pytestmark = pytest.mark.slow
ROOM = 10_000
PAD = 0


@pytest.fixture(scope="module")
def trl():
    pytest.importorskip("trl", reason="trl is not installed")
    import datasets
    from trl import DPOConfig, SFTConfig

    datasets.disable_progress_bars()
    options = {"output_dir": "unused", "max_length": None, "report_to": [], "use_cpu": True, "bf16": False}
    return SFTConfig(**options), DPOConfig(**options)


def sft_batch(args, tokenizer, rows, *, all_turns):
    """What TRL's trainer makes of rows before its first step, without a model."""
    from datasets import Dataset
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling, SFTTrainer

    trainer = SFTTrainer.__new__(SFTTrainer)
    trainer.completion_only_loss, trainer.chat_template, trainer._tokenizer = not all_turns, None, tokenizer
    args.assistant_only_loss = all_turns
    made = trainer._prepare_dataset(Dataset.from_list(rows), tokenizer, args, False, None, "train")
    return DataCollatorForLanguageModeling(pad_token_id=PAD)(list(made))


def dpo_batch(args, tokenizer, rows):
    from datasets import Dataset
    from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

    trainer = DPOTrainer.__new__(DPOTrainer)
    trainer._tokenizer = tokenizer
    made = trainer._prepare_dataset(Dataset.from_list(rows), tokenizer, args, "train")
    return DataCollatorForPreference(pad_token_id=PAD)(list(made))


def same(ours, theirs):
    assert {name: tensor.tolist() for name, tensor in ours.items()} == {n: theirs[n].tolist() for n in ours}


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_answer_is_trained_as_by_trl(trl, kind):
    """TRL's prompt and completion, each a list of messages."""
    task, own = chats.task(kind), chats.tokenizer(kind)
    rows = [
        {"prompt": as_messages(e.prompt), "completion": [{"role": "assistant", "content": e.completion}]}
        for e in task.examples
    ]
    same(collate(encode(task, own, max_length=ROOM).sequences, PAD), sft_batch(trl[0], own, rows, all_turns=False))


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_all_answers_are_trained_as_by_trl(trl, kind, marked):
    """TRL's messages with assistant_only_loss, for which it asks for a template with marks; ours needs none."""
    task = chats.task(kind)
    rows = [{"messages": as_messages(e.prompt, e.completion)} for e in task.examples]
    theirs = sft_batch(trl[0], chats.tokenizer(kind, marked=True), rows, all_turns=True)
    ours = encode(task, chats.tokenizer(kind, marked=marked), max_length=ROOM, train_on="all")
    same(collate(ours.sequences, PAD), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_pairs_are_trained_as_by_trl(trl, kind):
    """TRL's batch has the chosen answers first, then the rejected ones, and a mask of the answers."""
    task, own = chats.pairs(kind), chats.tokenizer(kind)
    rows = [
        {"prompt": as_messages(e.prompt)}
        | {name: [{"role": "assistant", "content": getattr(e, name)}] for name in ("chosen", "rejected")}
        for e in task.examples
    ]
    encoded, theirs = encode(task, own, max_length=ROOM), dpo_batch(trl[1], own, rows)
    assert encoded.rejected is not None
    ours = collate([*encoded.chosen, *encoded.rejected], PAD)
    assert ours["input_ids"].tolist() == theirs["input_ids"].tolist()
    assert ours["attention_mask"].tolist() == theirs["attention_mask"].tolist()
    assert (ours["labels"] != -100).long().tolist() == theirs["completion_mask"].tolist()
