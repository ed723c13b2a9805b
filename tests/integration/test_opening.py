"""Frozen gates, opened so that tokens add 5 % of the residual norm: held to norms that are taken another way."""

import pytest
import torch
from learning import model, task

from aligner_probe.adapters import Aligner, LLaMAAdapter
from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import collate, encode
from aligner_probe.training.opening import open_gate


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2"])
@pytest.mark.parametrize(("method", "n_tokens"), [(Aligner, 1), (Aligner, 4), (LLaMAAdapter, 3)])
def test_the_median_added_norm_is_five_percent(name, method, n_tokens):
    base, examples = model(name), task(12)
    opened = open_gate(base, examples, method, n_tokens=n_tokens, start_layer=1, seed=3)
    assert opened.measured == pytest.approx(0.05, rel=2e-3)
    adapter = method(base, n_tokens=n_tokens, start_layer=1, seed=3, train="tokens", initial_gate=opened.initial_gate)
    batch = collate(encode(examples, base.tokenizer, max_length=64).sequences, 0)
    ids, there = batch["input_ids"], batch["attention_mask"].bool()
    assert opened.n_positions == int(there.sum())
    shares = []
    with adapter.attached(), torch.no_grad():
        _, cache = base.run_with_cache(ids, attention_mask=batch["attention_mask"], use_cache=False)
    # Layer by layer on the adapted residual: the attention's output with the adapter, less that without it.
    for layer in adapter.layers:
        residual = cache[f"blocks.{layer}.hook_in"]
        outputs = []
        for attached in (True, False):

            def put(tensor, hook, residual=residual):
                return residual

            seen = {}

            def see(tensor, hook, seen=seen):
                seen["out"] = tensor

            hooks = [(f"blocks.{layer}.hook_in", put), (f"blocks.{layer}.attn.hook_out", see)]
            with torch.no_grad(), base.hooks(fwd_hooks=hooks):
                if attached:
                    with adapter.attached():
                        base(ids, attention_mask=batch["attention_mask"], use_cache=False)
                else:
                    base(ids, attention_mask=batch["attention_mask"], use_cache=False)
            outputs.append(seen["out"][there])
        shares.append((outputs[0] - outputs[1]).norm(dim=-1) / residual[there].norm(dim=-1))
    assert torch.cat(shares).median().item() == pytest.approx(0.05, rel=2e-2)


def test_the_share_and_the_seed_matter():
    base, examples = model(), task(12)

    def gate(**changes):
        return open_gate(base, examples, **({"n_tokens": 2, "start_layer": 1} | changes)).initial_gate

    assert gate() == gate()
    assert gate(share=0.1) > 1.5 * gate()
    assert gate(seed=1) != gate()
    with pytest.raises(AlignerProbeError, match="tanh gates end at 1"):
        gate(share=0.95, gate_function="tanh")
    with pytest.raises(AlignerProbeError, match="between 0 and 1"):
        gate(share=0.0)
