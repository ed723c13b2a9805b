"""What the package does on a device that is not the CPU: everything beside the base model's numbers is made there.

No GPU is needed. The device is `elsewhere.py`'s, which computes on the CPU and refuses to mix its tensors with those of
the CPU, as CUDA does. Each result has to be that of the CPU.
"""

import json
import math

import micro
import pytest
import tiny
import torch
from elsewhere import NAME, Elsewhere, There
from learning import Letters, Stops, quick, task
from probes import TINY, styled
from tiny_adapters import MAKERS, ROWS, VARIANTS, shaken

import aligner_probe as ap
from aligner_probe.adapters.registry import new_adapter
from aligner_probe.adapters.side_by_side import SideBySide
from aligner_probe.evaluation.likelihood import log_likelihoods
from aligner_probe.microworld.pretrain import Pretraining, pretrain
from aligner_probe.probing.probe import carry_out_probe, new_probe, with_batches
from aligner_probe.training import Training, fit_together

PROMPTS = ["abcdx", "gax", "hhhhgx"]


def base(device, name="llama_gqa"):
    # TransformerLens splits fused projections when it makes a bridge, and not on the device "meta".
    fused = name in ("gpt2", "phi3")
    model = ap.load_model(tiny.plain(name), device=None if fused else device)
    model.tokenizer = Letters()
    return model.to(device) if fused else model


# torch warns that loading a state into tensors on "meta" does nothing. Here these tensors have values.
pytestmark = pytest.mark.filterwarnings("ignore:.*meta parameter.*no-op")


def close(ours, theirs, tolerance=1e-5):
    return torch.allclose(torch.as_tensor(ours).cpu(), torch.as_tensor(theirs), rtol=tolerance, atol=tolerance)


def numbers(adapter):
    return torch.cat([parameter.detach().cpu().flatten() for parameter in adapter.parameters()])


@pytest.fixture
def elsewhere():
    with Elsewhere() as device:
        yield device
    assert device.met


class TestTheStandIn:
    """It refuses what CUDA refuses, and nothing else."""

    @pytest.mark.parametrize(
        "mixed",
        [
            lambda here, there: here + there,
            lambda here, there: there @ here,
            lambda here, there: torch.cat([there, here]),
            lambda here, there: torch.stack([there[0], here[0]]),
            lambda here, there: there.masked_fill(here > 1, 0),
            lambda here, there: torch.where(there > 1, there, here),
            lambda here, there: here[there.long()],
            lambda here, there: torch.nn.functional.embedding(here.long(), there.unsqueeze(1)),
            lambda here, there: torch.nn.functional.cross_entropy(there.unsqueeze(0), here[:1].long()),
            lambda here, there: there.add_(here),
            lambda here, there: torch.equal(there, here),
            lambda here, there: torch.randn(3, device=NAME, generator=torch.Generator()),
            lambda here, there: torch.from_numpy(there.numpy()),
        ],
    )
    def test_mixtures_are_refused(self, mixed):
        with Elsewhere(), pytest.raises(RuntimeError, match=r"CPU|subclasses"):
            mixed(torch.arange(3.0), torch.arange(3.0, device=NAME))

    @pytest.mark.parametrize(
        "allowed",
        [
            lambda here, there, device: there.cpu() + here,
            lambda here, there, device: here.to(device) + there,
            lambda here, there, device: there * here[1],
            lambda here, there, device: there[torch.tensor([2, 0, 1])],
            lambda here, there, device: torch.zeros(3, device=device).copy_(here) + there,
            lambda here, there, device: there.masked_fill(there > 1, here[1]),
            lambda here, there, device: there + torch.tensor([1.0, 2.0, 3.0], device=device),
            lambda here, there, device: torch.tensor(there.tolist()) * there.sum().item(),
            lambda here, there, device: there.view(3, 1).expand(3, 2).T.flatten().add_(1),
        ],
    )
    def test_what_cuda_allows_gives_the_cpus_numbers(self, allowed):
        numbers = torch.arange(3.0)
        expected = allowed(numbers, numbers.clone(), "cpu")
        with Elsewhere():
            found = allowed(numbers, numbers.to(NAME), NAME)
            assert torch.equal(found.cpu(), expected)


def begun_and_resumed(model, adapter, folder, **options):
    """A training that is broken off after two steps and resumed, with validation and saved states."""
    arguments = {
        "validation": task(10, options.pop("kind", "sft")),
        "recipe": quick(clip=1.0, evaluate_every=2),
        "out": folder,
        "save_every": 1,
        "show_progress": False,
    } | options
    train = arguments.pop("train", task())
    with pytest.raises(KeyboardInterrupt):
        ap.fit(model, adapter, train, callbacks=[Stops(3)], **arguments)
    return ap.fit(model, adapter, train, resume=True, **arguments)


def lived(device, row, folder):
    """What an adapter goes through: made, trained, resumed, saved, loaded, asked and scored. Its numbers at the end."""
    model = base(device)
    run = begun_and_resumed(model, VARIANTS[row](model, 1), folder / "run")
    ap.save_adapter(run.adapter, folder / "saved")
    loaded = ap.load_adapter(folder / "saved", model)
    assert torch.equal(numbers(loaded), numbers(run.adapter.folded()))
    with loaded.attached():
        answers = ap.generate(model, PROMPTS, max_new_tokens=5, batch_size=2)
        scores = log_likelihoods(model, task(6).examples, batch_size=4)
        logits = model(torch.arange(2, 9, device=device)[None])
    return run, numbers(loaded), answers, scores, logits


#: Rows tried each time; the others with the slow tests.
ALWAYS = ("aligner-5", "prompt tuning")


@pytest.mark.parametrize("row", [row if row in ALWAYS else pytest.param(row, marks=pytest.mark.slow) for row in ROWS])
def test_an_adapter_lives_on_the_device_as_it_does_on_the_cpu(row, elsewhere, tmp_path):
    there = lived(NAME, row, tmp_path / "there")
    here = lived("cpu", row, tmp_path / "here")
    assert all(isinstance(parameter, There) for parameter in there[0].adapter.parameters())
    for column in ("loss", "validation_loss"):
        ours, theirs = (getattr(one[0], column).dropna().to_numpy() for one in (there, here))
        assert len(ours) > 2
        assert close(ours, theirs)
    # AdamW's step is as large for a gradient of 1e-9 as for one of 1, so last bits of a gradient can grow.
    assert close(there[1], here[1], 1e-3)
    assert there[2] == here[2]
    assert all(close(ours, theirs, 1e-4) for ours, theirs in zip(there[3], here[3], strict=True))
    assert close(there[4], here[4], 1e-3)


@pytest.mark.parametrize("checkpoint_activations", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_preferences_are_trained_there(checkpoint_activations, elsewhere, tmp_path):
    losses = []
    for device in (NAME, "cpu"):
        model = base(device)
        run = begun_and_resumed(
            model,
            ap.LoRA(model, 4),
            tmp_path / device,
            kind="preference",
            train=task(24, "preference"),
            checkpoint_activations=checkpoint_activations,
        )
        losses.append(run.loss.dropna().to_numpy())
    assert math.isclose(losses[1][0], math.log(2), rel_tol=1e-5)
    assert close(*losses)


@pytest.mark.parametrize("cache", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_runs_share_their_batches_there(cache, elsewhere):
    losses, answers = [], []
    for device in (NAME, "cpu"):
        model = base(device)
        adapters = [ap.Aligner(model, 3, 1), ap.LoRA(model, 4, start_layer=1), ap.LLaMAAdapter(model, 2, 1)]
        trainings = [Training(adapter=one, task=task(), recipe=quick()) for one in adapters]
        runs = fit_together(model, trainings, cache=cache, show_progress=False)
        losses.append(torch.tensor([run.loss.dropna().tolist() for run in runs]))
        both = SideBySide(adapters)
        with both.attached(), both.rows([2, 0, 1]):
            answers.append(ap.generate(model, PROMPTS, max_new_tokens=5))
    assert close(*losses)
    assert answers[0] == answers[1]


def test_frozen_gates_are_opened_there(elsewhere):
    gates = [ap.open_gate(base(device), task(), ap.Aligner, n_tokens=2, start_layer=1) for device in (NAME, "cpu")]
    assert close(gates[0].initial_gate, gates[1].initial_gate, 1e-4)


@pytest.mark.parametrize("method", ["aligner", "output_bias"])
def test_constant_adapters_are_written_from_there(method, elsewhere, tmp_path):
    written = []
    for device in (NAME, "cpu"):
        options = {"start_layer": 1}
        adapter = shaken(new_adapter(method, base(device), options))
        ap.export_adapter(adapter, "steering", tmp_path / device)
        written.append(adapter.shifts())
    for layer, shift in written[1].items():
        assert close(written[0][layer], shift)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in tiny.MODELS])
@pytest.mark.parametrize("method", ["aligner", "lora"])
def test_every_family_computes_there(name, method, elsewhere):
    logits, gradients = [], []
    for device in (NAME, "cpu"):
        model = base(device, name)
        adapter = shaken(MAKERS[method](model))
        with adapter.attached():
            out = model(torch.arange(2, 12, device=device).view(2, 5))
            out.float().square().mean().backward()
        logits.append(out.detach())
        gradients.append(torch.cat([parameter.grad.cpu().flatten() for parameter in adapter.parameters()]))
        with adapter.attached():
            ap.generate(model, PROMPTS, max_new_tokens=3)
    assert close(*logits, 1e-4)
    assert close(*gradients, 1e-4)


@pytest.mark.slow
def test_a_micro_world_is_pretrained_and_resumed_there(elsewhere, tmp_path):
    config = Pretraining(n_documents=60, batch_tokens=1024, d_model=32, d_mlp=48, n_layers=2, n_heads=2)
    losses = []
    for device in (NAME, "cpu"):
        work = tmp_path / f"{device}-work"
        assert not pretrain(tmp_path / device, config, work=work, device=device, steps=3)
        pretrain(tmp_path / device, config, work=work, device=device, steps=5, resume=True)
        rows = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows])
    assert len(losses[0]) == len(losses[1]) == 5
    assert close(*losses, 1e-4)


@pytest.mark.slow
def test_a_probe_is_made_there(elsewhere, tmp_path):
    verdicts = []
    for device in (NAME, "cpu"):
        probe = new_probe(str(micro.base()), styled(), budget=TINY, device=device)
        result = carry_out_probe(with_batches(probe), tmp_path / device, show_progress=False)
        verdicts.append((result.report["verdict"], {run["id"] for run in result.report["runs"]}))
    assert verdicts[0] == verdicts[1]
