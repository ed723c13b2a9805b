"""Texts, files of them and a tokenizer that tests of tasks share."""

import json

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import load_task

TEXT = st.text(max_size=20)
WORDS = TEXT.filter(str.strip)

# stanford_alpaca's train.py, written out once more.
ALPACA_HEAD = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)
ALPACA_HEAD_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)


def byte_tokenizer(*, bos=True, eos=True, drops=""):
    """One id a byte, so that every text has as many tokens as bytes; `drops` are characters it leaves out."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {"<s>": 0, "</s>": 1} | {c: i + 2 for i, c in enumerate(c for c in alphabet if c not in drops)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>" if bos else None, eos_token="</s>" if eos else None
    )


BYTES = byte_tokenizer()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refused(path, **options):
    """The one line with which the file of a task is refused."""
    with pytest.raises(AlignerProbeError) as caught:
        load_task(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
