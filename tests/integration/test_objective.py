"""The forward pass of training: only positions that predict a label are unembedded, and nothing else changes."""

import random
from itertools import chain

import pytest
import torch
from learning import model, quick, task
from tiny import MODELS

from aligner_probe.adapters import LoRA, PromptTuning
from aligner_probe.tasks.encoding import IGNORED, Tokens, encode
from aligner_probe.training.losses import Predictions, sequence_log_probability, sft_loss
from aligner_probe.training.objective import DPO, SFT, Forward, objective, sequences_of
from aligner_probe.training.passes import parts_of
from aligner_probe.training.sequences import Sequences

#: Bases tried each time; the others with the slow tests.
ALWAYS = ("llama_gqa", "gpt2", "gemma2")


@pytest.mark.parametrize(
    "name", [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
@pytest.mark.parametrize("method", [LoRA, PromptTuning])
def test_losses_and_gradients_are_those_of_all_logits(name, method):
    base = model(name).to(torch.float64)
    torch.manual_seed(0)
    adapter = method(base)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3)
    sequences = Sequences(encode(task(), base.tokenizer, max_length=32).sequences, 0)
    some, seen = [7, 3, 12], []
    batch = sequences.batch(some)
    labels = batch["labels"]
    there = [(row, pos) for row in range(3) for pos in range(labels.shape[1] - 1) if labels[row, pos + 1] >= 0]

    def look(tensor, hook):
        seen.append(tuple(tensor.shape))

    def all_logits():
        whole = base(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        counts = tuple(sum(row == of for of, _ in there) for row in range(3))
        return Predictions(
            torch.stack([whole[at] for at in there]), torch.stack([labels[r, p + 1] for r, p in there]), counts
        )

    def hooked():
        with base.hooks(fwd_hooks=[("unembed.hook_out", look)]):
            return Forward(base, sequences)(some)

    found = []
    with adapter.attached():
        for predictions in (Forward(base, sequences)(some), hooked(), all_logits()):
            adapter.zero_grad(set_to_none=True)
            loss = sft_loss(predictions) + sequence_log_probability(predictions).square().sum()
            loss.backward(retain_graph=True)
            found.append([loss.detach(), *(parameter.grad for parameter in adapter.parameters())])
            assert predictions.logits.shape == (len(there), base.cfg.d_vocab)
            assert sum(predictions.counts) == len(there) < labels.numel()
    # What is hooked to the unembedding sees whole rows.
    assert [shape[0] for shape in seen] == [3]
    assert 1 < seen[0][1] < labels.shape[1] + adapter.n_positions
    for one in found[:2]:
        for ours, theirs in zip(one, found[2], strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_batch_without_labels_predicts_nothing():
    base = model("llama_gqa")
    ids = torch.tensor([5, 6, 7])
    nothing = Forward(base, Sequences([Tokens(ids, torch.full((3,), IGNORED), 0)] * 2, 0))([0, 1])
    assert nothing.logits.shape == (0, base.cfg.d_vocab)
    assert nothing.counts == (0, 0)
    assert sft_loss(nothing).item() == 0
    assert sequence_log_probability(nothing).tolist() == [0, 0]


@pytest.fixture(scope="module", params=["sft", "preference"])
def learned(request):
    """A model in float64 with an adapter that does something, and the objective of 24 examples of several lengths."""
    base = model("llama_gqa").to(torch.float64)
    torch.manual_seed(0)
    adapter = LoRA(base)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_(std=0.3)
    encoded = encode(task(kind=request.param), base.tokenizer, max_length=32)
    forward = Forward(base, Sequences(sequences_of(encoded), 0))
    with adapter.attached():
        yield adapter, objective(encoded, quick(micro_batch_size=2), forward)


@pytest.mark.parametrize("size", [1, 3, 8, 24, 100])
def test_parts_have_every_example_once_and_as_little_padding_as_possible(learned, size):
    _, train = learned
    indices = random.Random(size).sample(range(24), 24)
    parts = parts_of(train, indices, size)
    assert sorted(i for part in parts for i in part) == sorted(indices)
    assert [len(part) for part in parts] == [min(size, 24 - at) for at in range(0, 24, size)]
    lengths = [[int(train.forward.sequences.lengths[train.rows([i])].max()) for i in part] for part in parts]
    if size < 24:
        in_order = list(chain(*lengths))
        assert in_order == sorted(in_order)
        assert in_order[0] < in_order[-1]
    else:
        assert parts == [indices]


def test_the_loss_and_its_gradient_do_not_depend_on_the_parts(learned):
    adapter, train = learned
    if isinstance(train, DPO):
        train.set_reference()
        reference = torch.cat([sequence_log_probability(train.forward([row])).detach() for row in range(48)])
        assert torch.allclose(train._reference, reference, rtol=1e-5)
    else:
        assert isinstance(train, SFT)
    indices = random.Random(0).sample(range(24), 16)
    found = []
    for size in (16, 5, 1):
        adapter.zero_grad(set_to_none=True)
        losses = [train.loss(train.forward(train.rows(part)), part) for part in parts_of(train, indices, size)]
        total = torch.stack(losses).sum()
        total.backward()
        found.append([total.detach(), *(parameter.grad for parameter in adapter.parameters())])
    for one in found[1:]:
        for ours, theirs in zip(one, found[0], strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)
