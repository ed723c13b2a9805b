"""The forward pass of training: only positions that predict a label are unembedded, and nothing else changes."""

import pytest
import torch
from learning import model, task
from tiny import MODELS

from aligner_probe.adapters import LoRA, PromptTuning
from aligner_probe.tasks.encoding import IGNORED, Tokens, encode
from aligner_probe.training.losses import Predictions, sequence_log_probability, sft_loss
from aligner_probe.training.objective import Forward
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
