"""Tiny random Llamas with a byte-level tokenizer beside them, whose special tokens a test chooses."""

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CORPUS = ["Once upon a time there was a cat.", "The capital of France is Paris.", "Tom said it's a b c 12 34."] * 4
#: By name: what stands before and behind every text, and which of BOS and EOS the tokenizer says that it has.
PUT = {
    "a BOS that is not put": ("", "", {"bos_token": "<s>", "eos_token": "</s>"}),
    "BOS and EOS are one": ("", "", {"bos_token": "</s>", "eos_token": "</s>"}),
    "BOS put": ("<s> ", "", {"bos_token": "<s>", "eos_token": "</s>"}),
    "BOS and EOS put": ("<s> ", " </s>", {"bos_token": "<s>", "eos_token": "</s>"}),
    "EOS put": ("", " </s>", {"bos_token": "<s>", "eos_token": "</s>"}),
    "EOS put, no BOS": ("", " </s>", {"eos_token": "</s>"}),
    "two start tokens, no BOS": ("<mask> <sop> ", "", {"eos_token": "</s>"}),
    "no special tokens": ("", "", {}),
}
SPECIAL = ["<s>", "</s>", "<mask>", "<sop>"]


@functools.cache
def trained() -> str:
    """A byte-level BPE with merges, as JSON."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return inner.to_str()


def bpe(put: str):
    """The tokenizer of an entry of PUT."""
    before, behind, names = PUT[put]
    inner = Tokenizer.from_str(trained())
    if before or behind:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{before}$A{behind}", special_tokens=[(name, SPECIAL.index(name)) for name in SPECIAL]
        )
    else:
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return PreTrainedTokenizerFast(tokenizer_object=inner, **names)


def folder_of(path, put="a BOS that is not put", tokenizer=None):
    """A tiny random Llama with a tokenizer beside it."""
    config = LlamaConfig(
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=300,
        max_position_embeddings=128,
        eos_token_id=1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(path)
    (tokenizer or bpe(put)).save_pretrained(path)
    return path
