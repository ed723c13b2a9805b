"""A method of a user's own, as docs/howto/add_a_method.md writes it: what the package's methods can, it can."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import micro
import pytest
import torch
from conftest import ROOT
from probes import TINY, jsonl, styled
from tiny import bridge, tokens
from tiny_adapters import shaken

import aligner_probe as ap
from aligner_probe.adapters.adapter import Adapter
from aligner_probe.adapters.plugins import load_plugin
from aligner_probe.adapters.registry import METHODS, adapter_class
from aligner_probe.arms.catalogue import ARMS
from aligner_probe.commands import train
from aligner_probe.errors import AlignerProbeError
from aligner_probe.jobs import pool
from aligner_probe.probing import plan
from aligner_probe.training import recipe
from aligner_probe.training.memory import estimate_memory
from aligner_probe.training.rates import default_rate

HOWTO = ROOT / "docs" / "howto"
#: A training that kills itself in its fifth step.
KILLED = """
import os, signal, sys
from aligner_probe.commands import train
from aligner_probe.training.member import Member

step = Member.step

def killed(self, *arguments):
    if self.progress.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)

Member.step = killed
train.main(sys.argv[1:])
"""
#: Loads an adapter without its class, and then with it.
LOADED = """
import sys
import aligner_probe as ap

folder, base, plugin = sys.argv[1:]
model = ap.load_model(base)
try:
    ap.load_adapter(folder, model)
except ap.AlignerProbeError as error:
    print(error)
sys.path.append(plugin)
import head_scale
print(ap.load_adapter(folder, model).factors.tolist())
"""


def blocks(page, language):
    """The code blocks of a how-to page."""
    return re.findall(rf"```{language}\n(.*?)```", (HOWTO / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page's class in a file."""
    path = tmp_path_factory.mktemp("own") / "head_scale.py"
    path.write_text(blocks("add_a_method.md", "python")[0])
    return path


@pytest.fixture
def head_scale(file, monkeypatch):
    """The page's module, imported and its method registered, for one test."""
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS))
    monkeypatch.setattr(ARMS, "_arms", dict(ARMS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert load_plugin(str(file)) == ("head_scale",)
    yield sys.modules["head_scale"]
    del sys.modules["head_scale"]


@pytest.fixture
def forgotten(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(METHODS, "_classes", dict(METHODS))
    monkeypatch.setattr(ARMS, "_arms", dict(ARMS))


def words(tmp_path, file, out):
    task = jsonl(tmp_path / "task.jsonl", styled())
    shared = ["--plugin", file, "--method", "head_scale", "--initial", 1.5, "--start-layer", 1, "--seed", 3]
    how = ["--model", micro.base(), "--task", task, "--steps", 8, "--batch-size", 4, "--save-every", 2]
    return [str(word) for word in (*shared, *how, "--out", tmp_path / out)]


def test_it_is_thirty_lines(file):
    lines = [line for line in file.read_text().splitlines() if line.strip()]
    assert len(lines) <= 30


def test_it_adapts_and_comes_back_from_its_folder(head_scale, tmp_path):
    model, ids = bridge("llama_gqa"), tokens()
    adapter = shaken(head_scale.HeadScale(model, initial=1.0))
    assert (adapter.method, adapter.n_parameters) == ("head_scale", 4 * 4)
    base = model(ids)
    with adapter.attached():
        expected = model(ids)
    assert not torch.equal(expected, base)
    assert torch.equal(model(ids), base)
    folder = ap.save_adapter(adapter, tmp_path / "saved")
    again = ap.load_adapter(folder, model)
    assert again.config == adapter.config
    with again.attached():
        assert torch.equal(model(ids), expected)


def test_what_others_ask_of_it_has_an_answer(head_scale):
    model = bridge("llama_gqa")
    adapter = head_scale.HeadScale(model)
    assert default_rate(adapter) == 0.03
    few, many = (estimate_memory(adapter, recipe(batch_size=8), pos) for pos in (8, 32))
    assert 0 < few.activations < many.activations
    assert adapter_class("head_scale").depends_on_input({}).startswith("head_scale cannot be merged")
    assert recipe("as-published", method="head_scale") == recipe("as-published", method="aligner")


def test_the_help_lists_it_with_its_options(head_scale, file, capsys):
    with pytest.raises(SystemExit):
        train.main(["--plugin", str(file), "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "prompt_tuning,head_scale}" in said
    assert "--initial X head_scale: initial value of every factor" in said
    with pytest.raises(SystemExit):
        train.main(["--help"])
    assert "head_scale" not in capsys.readouterr().out


@pytest.mark.slow
def test_it_is_trained_killed_resumed_and_loaded_in_a_new_process(head_scale, file, tmp_path):
    killed = subprocess.run([sys.executable, "-c", KILLED, *words(tmp_path, file, "killed")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "adapter").exists()
    assert train.main([*words(tmp_path, file, "killed"), "--resume"]) == 0
    assert train.main(words(tmp_path, file, "whole")) == 0
    model = ap.load_model(micro.base())
    resumed, whole = (ap.load_adapter(tmp_path / out / "adapter", model) for out in ("killed", "whole"))
    assert torch.equal(resumed.factors, whole.factors)
    assert not torch.equal(resumed.factors, resumed.start["factors"])
    assert resumed.config == head_scale.HeadScaleConfig(initial=1.5, start_layer=1, seed=3)
    arguments = [str(word) for word in (tmp_path / "killed" / "adapter", micro.base(), file.parent)]
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments], capture_output=True, text=True, check=True, env=os.environ
    )
    error, factors = done.stdout.splitlines()
    assert "has method 'head_scale'" in error
    assert "@ap.register_adapter" in error
    assert "--plugin" in error
    assert json.loads(factors) == resumed.factors.tolist()


@pytest.mark.slow
def test_it_is_an_arm_of_a_probe(head_scale, tmp_path, monkeypatch):
    """Made by worker processes, which import its module by themselves; one at a time, since each takes 5 s to start."""
    workers, started = pool.workers, []
    monkeypatch.setattr(pool, "workers", lambda n, shared: started.append(n) or workers(1, shared))
    namespace = {"ap": ap}
    exec(blocks("add_a_method.md", "python")[2], namespace)
    budget = replace(TINY, arms=(*TINY.arms, namespace["arm"]))
    out = tmp_path / "probe"
    result = ap.probe_task(str(micro.base()), styled(), budget=budget, out=out, n_processes=2, show_progress=False)
    assert max(started) == 2
    runs = [run for run in result.report["runs"] if run["arm"] == "head-scale"]
    assert [run["n_parameters"] for run in runs] == [4 * 4]
    assert "head-scale" in result.report["measures"]["strict"]["scores"]
    adapter = ap.load_adapter(out / "runs" / runs[0]["id"] / "adapter", ap.load_model(micro.base()))
    assert isinstance(adapter, head_scale.HeadScale)
    recorded = json.loads((out / "plan.json").read_text())
    assert recorded["budget"]["arms"][-1] == "head-scale"
    assert recorded["methods"]["head-scale"]["adapter"] == "head_scale"


def test_the_page_runs(head_scale, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for _ in range(2):
        exec(blocks("add_a_method.md", "python")[1], namespace)
    assert isinstance(namespace["again"], head_scale.HeadScale)


def test_the_page_s_command_runs(head_scale, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "head_scale.py").write_text(file.read_text())
    [command] = blocks("add_a_method.md", "bash")
    monkeypatch.setattr(head_scale, "__file__", str(tmp_path / "head_scale.py"))
    program, name, *arguments = command.replace("\\\n", " ").split()
    assert (program, name) == ("aligner-probe", "train")
    assert train.main(arguments) == 0
    assert (tmp_path / "scaled_run" / "adapter").is_dir()


@pytest.mark.slow
def test_the_page_about_arms_runs(forgotten, tmp_path, monkeypatch):
    monkeypatch.setitem(plan.BUDGETS, "quick", TINY)
    monkeypatch.chdir(tmp_path)
    [code] = blocks("add_an_arm.md", "python")
    jsonl(tmp_path / "task.jsonl", styled())
    code = code.replace('"microworld"', repr(str(micro.base()))).replace('"panel:style_pirate"', '"task.jsonl"')
    namespace = {}
    for _ in range(2):
        exec(code, namespace)
    assert {run["arm"] for run in namespace["result"].report["runs"]} == {*TINY.arms, "lora-64"}


@dataclass(frozen=True, kw_only=True)
class MineConfig(ap.AdapterConfig):
    size: int = 1


class Mine(Adapter):
    config: MineConfig

    def __init__(self, model, size=1, seed=0):
        super().__init__(model, MineConfig(size=size, seed=seed))

    def hook_functions(self):
        yield from ()


class Lacks(Mine):
    def __init__(self, model, seed=0):
        super().__init__(model, 1, seed)


class NoConfig(Mine):
    config: dict


@pytest.mark.parametrize(
    ("register", "says"),
    [
        (lambda: ap.register_adapter("Mine!"), "lower-case letters"),
        (lambda: ap.register_adapter("mine")(dict), "expected a subclass of ap.Adapter"),
        (lambda: ap.register_adapter("mine")(NoConfig), "extends ap.AdapterConfig"),
        (lambda: ap.register_adapter("mine")(Lacks), r"Lacks\(\) does not take size, which MineConfig has"),
        (lambda: ap.register_adapter("lora")(Mine), "method 'lora' is taken by aligner_probe.adapters.lora.LoRA"),
        (lambda: ap.Arm("mine", "Mine", "lorra"), "no method is named 'lorra'; did you mean lora"),
        (lambda: ap.register_arm(ap.Arm("lora-8", "Mine", "lora")), "another arm is named 'lora-8' already"),
        (lambda: recipe(method="lorra"), "no method is named 'lorra'"),
        (lambda: load_plugin("nowhere.py"), "there is no such file"),
        (lambda: load_plugin("no_such_module"), "cannot be imported: ModuleNotFoundError"),
        (lambda: load_plugin("json"), "registers no method"),
    ],
)
def test_mistakes_are_one_line(register, says, forgotten):
    with pytest.raises(AlignerProbeError, match=says) as error:
        register()
    assert "\n" not in str(error.value)


def test_a_class_is_registered_again_but_not_saved_without(forgotten, tmp_path):
    model = bridge("llama_gqa")
    with pytest.raises(AttributeError):
        _ = Mine.method
    Mine.method = "mine"
    try:
        with pytest.raises(AlignerProbeError, match=r'is not registered.*ap.register_adapter\("mine"\)\(Mine\)'):
            ap.save_adapter(Mine(model), tmp_path / "mine")
        ap.register_adapter("mine")(Mine)
        ap.register_adapter("mine")(Mine)
        assert METHODS["mine"] is Mine
    finally:
        del Mine.method


def test_an_option_that_the_command_has_already_is_refused(forgotten, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = blocks("add_a_method.md", "python")[0].replace("initial", "steps").replace("head_scale", "own_steps")
    (tmp_path / "own_steps.py").write_text(code)
    try:
        with pytest.raises(AlignerProbeError, match="own_steps: the command has an option --steps of its own"):
            train.main(["--plugin", str(tmp_path / "own_steps.py"), "--help"])
    finally:
        sys.modules.pop("own_steps", None)
