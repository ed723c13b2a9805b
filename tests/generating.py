"""Prompts, a tokenizer of whole words, and generation by a plain loop to compare with."""

import tiny
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def plainly(model, prompt, n, ending=None):
    """Up to n new token ids for one prompt, without a batch or a cache: every position is computed anew each time."""
    ids = list(prompt)
    while len(ids) < len(prompt) + n:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]), use_cache=False)[0, -1].argmax()))
        if ending and ending(ids[len(prompt) :]):
            break
    return ids[len(prompt) :]


def prompts(lengths, seed=0):
    """Random prompts of these lengths, as lists of token ids of a tiny model."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, 61, (n,), generator=generator).tolist() for n in lengths]


def word_tokenizer():
    """A tokenizer of a tiny model's 61 ids, one id a word."""
    words = ["<end>", "red", "blue", "Q:", "A:", "\n"] + [f"w{i}" for i in range(55)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", unk_token="w0")


def named_model():
    """A tiny base model with `word_tokenizer`."""
    model = tiny.bridge("llama")
    model.tokenizer = word_tokenizer()
    return model
