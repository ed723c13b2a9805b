"""The forward pass of training: only positions that predict a label are unembedded, and nothing else changes."""

import pytest
import torch
from learning import model, task
from tiny import MODELS

from aligner_probe.adapters import LoRA, PromptTuning
from aligner_probe.tasks.encoding import encode
from aligner_probe.training.losses import sequence_log_probability, sft_loss
from aligner_probe.training.objective import Forward, from_first
from aligner_probe.training.sequences import Sequences

UNLABELLED = -100


def test_labels_are_kept_from_the_position_that_predicts_the_first():
    labels = torch.full((2, 6), UNLABELLED)
    assert from_first(labels).shape == (2, 6)
    labels[0, 4], labels[1, 3] = 7, 8
    assert from_first(labels).tolist() == labels[:, 2:].tolist()
    labels[1, 0] = 9  # nothing comes before it
    assert from_first(labels).shape == (2, 6)


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
    batch, some = sequences.batch([7, 3, 12]), [7, 3, 12]
    found = []
    with adapter.attached():
        logits, labels = Forward(base, sequences)(some)
        assert 1 < labels.shape[1] == logits.shape[1] < batch["labels"].shape[1]
        whole = base(batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
        for pair in ((logits, labels), (whole, batch["labels"])):
            adapter.zero_grad(set_to_none=True)
            loss = sft_loss(*pair) + sequence_log_probability(*pair).square().sum()
            loss.backward(retain_graph=True)
            found.append([loss.detach(), *(parameter.grad for parameter in adapter.parameters())])
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
