"""Bad input to the train command: one line that says what is wrong, exit code 2, and nothing half-written."""

import json
import math
import resource
import shutil
from pathlib import Path

import pytest
import torch
from learning import DIVERGES, model, plant_divergence, quick, task
from safetensors.torch import load_file
from tiny import plain

from aligner_probe.adapters import Aligner, LoRA
from aligner_probe.commands import messages, run
from aligner_probe.commands import train as command
from aligner_probe.errors import AlignerProbeError
from aligner_probe.training import fit
from aligner_probe.training.callbacks import Callback

LETTERS = "abcdefghijklmnopqrstuvwxyz "


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A folder with a random model of 4 layers and a context of 64, and a tokenizer that knows small letters only."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    ids = {"<pad>": 0, "<eos>": 1} | {c: 2 + i for i, c in enumerate(LETTERS)}
    tokenizer = Tokenizer(models.BPE(ids, []))  # drops what it does not know
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    plain("llama_gqa").save_pretrained(folder)
    return folder


def rows(n=20, **changes):
    return [{"prompt": f"say {LETTERS[i]} ", "completion": f"{LETTERS[i] * 3}"} | changes for i in range(n)]


def written(path: Path, content) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in content))
    return path


@pytest.fixture
def train(base, tmp_path, capsys):
    """Run the command in `tmp_path` on some rows; returns exit code, standard output and the error's lines."""

    def call(content, *arguments, out="run", adapter=("--start-layer", 1)):
        path = written(tmp_path / "task.jsonl", content)
        options = ["--model", base, "--task", path, "--out", tmp_path / out, *adapter, *arguments]
        capsys.readouterr()
        try:
            code = run(command.main, [str(option) for option in options])
        except SystemExit as leaving:  # argparse
            code = leaving.code
        said = capsys.readouterr()
        # Bars (of loading, of steps) draw over their line by carriage returns.
        lines = [line.split("\r")[-1] for line in said.err.splitlines()]
        return code, said.out, [line for line in lines if "error: " in line or "Traceback" in line]

    return call


PAIR = {"prompt": "say a ", "chosen": "yes", "rejected": "no"}
SHORT = ("--steps", 2, "--batch-size", 4)


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        ([], (), "is empty"),
        ([*rows(3), '{"prompt": "cut'], (), "line 4: is no JSON"),
        ([*rows(3), {"prompt": "a"}], (), "line 4"),
        ([*rows(3), [1, 2]], (), "line 4: is a JSON list"),
        ([{"question_": "a", "reply": "b"}], (), "question_"),
        (rows(20, completion="x" * 80), ("--overlong", "refuse"), "more tokens than fit"),
        (
            [row | {"prompt": row["prompt"] * 12} for row in rows()],
            ("--overlong", "refuse"),
            "a prompt that leaves no room",
        ),
        (rows(20, prompt="x" * 80, group=None), (), "share a group or a prompt"),
        (rows(20, completion=""), (), "line 1: the completion is empty"),
        (rows(20, completion="ÄÖ"), (), "no tokens that could be learned"),
        ([PAIR | {"rejected": "yes"}, PAIR | {"prompt": "say b "}], (), "line 1"),
        (rows(), ("--start-layer", 4), "start_layer 4 on a base of 4 layers"),
        (rows(), ("--start-layer", -1), "start_layer -1"),
        (rows(), ("--n-tokens", 0), "n_tokens 0"),
        (rows(), ("--max-length", 65), "context is 64"),
        (rows(), ("--method", "lora", "--start-layer", 0, "--cache", "on"), "works from layer 0 on"),
        (rows(), ("--cache", "on", "--cache-gb", 0), "over the budget of 0"),
        (rows(), ("--freeze", "gates", "--initial-gate", 0), "trains nothing"),
        (rows(), ("--clip", "some"), "argument --clip"),
        (rows(), ("--clip", 0), "clip 0.0"),
        (rows(), ("--micro-batch-size", -4), "micro_batch_size -4"),
        (rows(), ("--max-length", 0), "max_length 0"),
        (rows(), ("--save-every", 0), "--save-every: 0; expected 1 or more"),
        (rows(), ("--save-every", -3), "--save-every: -3"),
        (rows(), ("--cache-gb", -1), "--cache-gb: -1; expected 0 or more"),
        (rows(), ("--cache-gb", "nan"), "--cache-gb: nan"),
        (rows(), ("--method", "lora", "--alpha", 0), "alpha 0.0"),
        (rows(), ("--method", "lora", "--alpha", "nan"), "--alpha: nan"),
        (rows(), ("--initial-gate", "nan"), "--initial-gate: nan"),
        (rows(), ("--betas", 2, 3), "betas (2.0, 3.0)"),
        (rows(), ("--seed", 10**23), "--seed: 1"),
        (rows(), ("--seed", "x"), "--seed: x; expected a whole number"),
        (rows(), ("--device", "foo"), "foo"),
    ],
)
def test_one_line_and_exit_code_2(train, tmp_path, content, arguments, says):
    code, _, lines = train(content, *SHORT, *arguments)
    assert code == 2
    assert len(lines) == 1
    assert says in lines[0]
    assert not (tmp_path / "run").exists()


def test_validation_that_shares_prompts_is_refused(train, tmp_path):
    held_out = written(tmp_path / "held_out.jsonl", [*rows(2), {"prompt": "say zz ", "completion": "zz"}])
    code, _, (line,) = train(rows(), "--validation", held_out)
    assert code == 2
    assert "2 of 3 test examples have a prompt that was trained" in line
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder / "train.jsonl", rows())
    written(folder / "test.jsonl", rows(1))
    code, _, (line,) = train(rows(), "--task", folder)
    assert code == 2
    assert "1 of 1 test examples" in line


@pytest.mark.parametrize(
    ("long", "says"),
    [
        ([], "of the prompt (0 of 20). Trained on"),
        ([{"prompt": "say yy ", "completion": "x" * 80}], "of the prompt (1 of 21). Trained on"),
        (
            [{"prompt": f"{letter * 80}", "completion": "y"} for letter in "yz"],
            "of the prompt (0 of 22); dropped for a prompt that leaves no room for a completion: 2. Trained on",
        ),
    ],
)
def test_what_is_too_long_is_counted(train, tmp_path, long, says):
    held_out = written(tmp_path / "held_out.jsonl", [{"prompt": "say zz ", "completion": "zz"}])
    code, said, _ = train([*rows(), *long], *SHORT, "--validation", held_out)
    assert code == 0
    assert says in said


def test_a_second_run_in_a_folder_is_refused_and_the_first_one_goes_on(train, tmp_path):
    assert train(rows(), *SHORT)[0] == 0
    code, _, (line,) = train(rows(), *SHORT)
    assert code == 2
    assert "--resume" in line
    code, _, (line,) = train(rows(), *SHORT, "--resume", "--lr", 0.5)
    assert code == 2
    assert line.endswith(
        "run was begun with recipe lr 0.1 (now 0.5); resume with the same options, --lr 0.1 (recipe(lr=0.1)), or name "
        "another folder"
    )
    before = (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert train(rows(), *SHORT, "--resume")[0] == 0
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").read_bytes() == before


def test_dpo_begins_from_what_sft_left(train, tmp_path, base):
    assert train(rows(), *SHORT, "--n-tokens", 2)[0] == 0
    pairs = [PAIR | {"prompt": f"say {letter} "} for letter in LETTERS[:20]]
    saved = tmp_path / "run" / "adapter"
    code, said, _ = train(pairs, *SHORT, out="dpo", adapter=("--adapter", saved))
    assert code == 0
    assert "aligner: 108 trainable parameters" in said
    numbers, before = (load_file(tmp_path / out / "adapter" / "adapter_model.safetensors") for out in ("dpo", "run"))
    assert torch.equal(numbers["initial.gates"], before["gates"])
    assert not torch.equal(numbers["gates"], before["gates"])
    began = json.loads((tmp_path / "dpo" / "adapter" / "provenance.json").read_text())["run"]["began_from"]
    assert began["file"]["source"] == str(saved)
    assert began["run"]["task"]["kind"] == "sft"
    for options, says in (
        (("--start-layer", 1, "--seed", 1), "--adapter has its own --seed, --start-layer; leave these out"),
        (("--method", "aligner"), "its own --method"),
        (("--adapter", ""), "error: "),
        (("--only-safe-chosen",), "expected Beaver's fields with only_safe_chosen or prefer"),
        (("--adapter", tmp_path / "none"), "none"),
    ):
        code, _, lines = train(pairs, *SHORT, *options, out="wrong", adapter=("--adapter", saved))
        assert (code, len(lines)) == (2, 1)
        assert says in lines[0]
        assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("damaged", [b"garbage", b"", b"half", {"step": 2}])
def test_a_damaged_state_is_named_and_left_alone(train, tmp_path, damaged):
    assert train(rows(), *SHORT)[0] == 0
    state = tmp_path / "run" / "state.pt"
    if damaged == b"half":
        damaged = state.read_bytes()[:500]
    if isinstance(damaged, dict):
        torch.save(damaged, state)
    else:
        state.write_bytes(damaged)
    before = state.read_bytes()
    code, _, (line,) = train(rows(), *SHORT, "--resume")
    assert code == 2
    assert f"{state} is damaged, or no saved state of a run" in line
    assert state.read_bytes() == before
    state.unlink()
    assert train(rows(), *SHORT, "--resume")[0] == 0


def test_what_is_held_out_and_in_which_precision_is_said(train, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    written(folder / "train.jsonl", rows())
    written(folder / "test.jsonl", [{"prompt": "say zz ", "completion": "zz"}])
    code, said, _ = train(rows(), *SHORT, "--task", folder)
    assert code == 0
    assert f"in float32; 18 examples, 2 for validation {messages.HELD_OUT.format(task=folder)}" in said
    published = ("--steps", 1, "--recipe", "as-published")
    code, said, _ = train(rows(), *published, out="published")
    assert code == 0
    assert "in bfloat16" in said
    assert messages.NOT_AS_PUBLISHED.format(difference="") not in said
    assert messages.UPDATES_LOST.partition("%}")[2].format(period="the last epoch") in said
    code, said, _ = train(rows(), *published, "--dtype", "float32", "--method", "lora", out="mixed")
    assert code == 0
    for difference in (messages.OTHER_DTYPE.format(dtype="float32"), LoRA.published_notes["sft"]):
        assert messages.NOT_AS_PUBLISHED.format(difference=difference) in said


def test_a_loss_that_is_no_number_stops_the_command(train, tmp_path, monkeypatch):
    plant_divergence(monkeypatch)
    code, _, (line,) = train(rows(), "--lr", DIVERGES, "--save-every", 1, "--epochs", 9, "--method", "lora")
    assert code == 2
    assert "the loss is nan at step 1" in line  # that on the validation part, after the first step
    assert f"Lower the learning rate ({DIVERGES})" in line
    assert not (tmp_path / "run" / "adapter").exists()
    # The numbers of step 1 were never found good, so they were never kept.
    assert not (tmp_path / "run" / "state.pt").exists()


def test_a_loss_that_is_no_number_leaves_the_last_good_state(tmp_path):
    class Spoils(Callback):
        def stepped(self, row):
            if row["step"] == 5:
                adapter.gates.data.fill_(math.nan)

    base, recipe = model(), quick(epochs=4.0)
    ended = []
    for name in ("whole", "spoilt"):
        adapter = Aligner(base, 4, 1)
        shared = {"recipe": recipe, "out": tmp_path / name, "save_every": 1, "show_progress": False}
        if name == "spoilt":
            with pytest.raises(AlignerProbeError, match="the loss is nan at step 6"):
                fit(base, adapter, task(), callbacks=[Spoils()], **shared)
            assert all(torch.isfinite(p).all() for p in adapter.parameters())
            state = torch.load(tmp_path / name / "state.pt", weights_only=True)
            assert state["step"] == 4
            assert all(torch.isfinite(numbers).all() for numbers in state["numbers"].values())
            adapter = Aligner(base, 4, 1)
        fit(base, adapter, task(), resume=True, **shared)
        ended.append(torch.cat([p.detach().flatten() for p in adapter.parameters()]))
    assert torch.equal(*ended)


def test_open_gates_are_found_and_recorded(train, tmp_path):
    code, said, _ = train(rows(), *SHORT, "--freeze", "gates", "--n-tokens", 2)
    assert code == 0
    assert "tokens add 5.0% of the residual norm" in said
    recorded = json.loads((tmp_path / "run" / "adapter" / "provenance.json").read_text())["run"]
    assert recorded["open_gate"]["initial_gate"] == recorded["options"]["initial_gate"] != 0
    assert recorded["open_gate"]["measured"] == pytest.approx(0.05, rel=2e-3)
    assert recorded["split"] == {"validation": 0.1, "seed": 0}
    assert "--freeze" in recorded["command"]


def test_a_full_disk_leaves_the_last_good_state(tmp_path):
    """A limit on file sizes stands in for it: the system's answer comes from the same call."""

    class DiskFills(Callback):
        def __init__(self, step):
            self.step = step

        def stepped(self, row):
            if row["step"] == self.step:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    base, recipe = model(), quick(epochs=4.0)

    def trained(name, **options):
        adapter = Aligner(base, 4, 1)
        fit(base, adapter, task(), recipe=recipe, out=tmp_path / name, save_every=2, show_progress=False, **options)
        return adapter

    whole = trained("whole")
    for step, kept in ((1, None), (7, 6)):
        out = tmp_path / f"full{step}"
        try:
            with pytest.raises(AlignerProbeError, match="cannot write to"):
                trained(out.name, callbacks=[DiskFills(step)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert {p.name for p in out.iterdir()} <= {"lock", "metrics.jsonl", "state.pt"}
        assert (out / "state.pt").exists() == (kept is not None)
        if kept:
            assert torch.load(out / "state.pt", weights_only=True)["step"] == kept
        again = trained(out.name, resume=True)
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True))


def test_lower_layers_on_a_full_disk_are_one_line(tmp_path):
    base = model()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        with pytest.raises(AlignerProbeError, match="cannot write to"):
            fit(base, Aligner(base, 1, 2), task(), recipe=quick(), cache_folder=tmp_path / "kept", show_progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "kept").iterdir()) == []


def half_of(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: half_of(folder / "model.safetensors"), "cannot load a model from"),
        (lambda folder: (folder / "config.json").write_text("{}"), "cannot load a model from"),
        (lambda folder: half_of(folder / "tokenizer.json"), "cannot read the tokenizer of"),
        (lambda folder: (folder / "tokenizer.json").write_text('{"a": 1}'), "cannot read the tokenizer of"),
    ],
)
def test_a_damaged_base_is_one_line(train, base, tmp_path, damage, says):
    folder = shutil.copytree(base, tmp_path / "base")
    damage(folder)
    code, _, lines = train(rows(), *SHORT, "--model", folder)
    assert code == 2
    assert len(lines) == 1
    assert f"{says} '{folder}'" in lines[0]
    assert not (tmp_path / "run").exists()
