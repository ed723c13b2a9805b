"""Notebooks are stored without outputs and run from top to bottom."""

import json

import pytest
from conftest import DATA, ROOT, real_model

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Folders of ALIGNER_PROBE_DATA that a notebook takes its data from.
NEEDS = {"01_published_weights": ("published",)}
#: Those that take more than about 15 s; `make docs` runs them, too.
LONG = (
    "01_published_weights",
    "02_train_an_aligner",
    "03_micro_world",
    "04_probe_your_task",
    "07_reproduce_on_your_model",
)
#: The one that needs a real chat model, and has tests of its own.
CHAT = ROOT / "notebooks" / "05_a_chat_model.ipynb"
RUN = [pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ()) for path in NOTEBOOKS if path != CHAT]


def read(path):
    """A notebook; nbformat is imported here, since that takes seconds and each test process collects this file."""
    import nbformat

    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs(path):
    """Read as plain JSON, which needs no nbformat."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert cells
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_runs(path, tmp_path, monkeypatch):
    notebook = read(path)
    run(notebook, path, tmp_path, monkeypatch)
    assert any("image/png" in output.get("data", {}) for output in shown(notebook))


TWICE = [path for path in NOTEBOOKS if path.stem != "04_probe_your_task" and path != CHAT]


@pytest.mark.slow
@pytest.mark.parametrize("path", TWICE, ids=lambda path: path.stem)
def test_every_cell_can_be_run_twice(path, tmp_path, monkeypatch):
    """In all notebooks but the one that trains for minutes."""
    run(with_each_cell_twice(read(path)), path, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "learned"), [(120, True), (1, False)])
def test_what_notebook_02_says_follows_from_its_numbers(steps, learned, tmp_path, monkeypatch):
    """After one step nothing is learned, and it says so; as it stands, the form is learned."""
    [path] = [path for path in NOTEBOOKS if path.stem == "02_train_an_aligner"]
    notebook = read(path)
    for cell in notebook.cells:
        cell.source = cell.source.replace("steps=120", f"steps={steps}")
    run(notebook, path, tmp_path, monkeypatch)
    said = "".join(output.get("text", "") for output in shown(notebook))
    assert said.count("has learned the form") == 2 * learned
    assert said.count("has not learned the form") == 2 * (not learned)


#: A cell that prints what the notebook measured, as JSON.
RESULTS = """
shares = {name: {kind: float(one.mean()) for kind, one in score.items()} for name, score in scores.items()}
trained = [int((row.labels != IGNORED).sum()) for row in encoded.sequences]
print(json.dumps({
    "shares": shares,
    "trained": trained,
    "same": same,
    "difference": export.checks.max_logit_difference,
    "n_parameters": adapters["Aligner-1"].n_parameters,
}))
"""


@pytest.mark.slow
def test_a_chat_model_learns_a_form_and_answers_as_a_plain_model(tmp_path, monkeypatch):
    """The bounds are wide, and one answer may differ: where tokens are as likely, rounding chooses.

    The notebook asks the exported folder test questions; here it is asked one that no row has.
    """
    from nbformat.v4 import new_code_cell
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("ALIGNER_PROBE_REAL_MODEL", str(real_model().resolve()))
    notebook = read(CHAT)
    notebook.cells.append(new_code_cell(RESULTS))
    run(notebook, CHAT, tmp_path, monkeypatch, timeout=3600)
    assert any("image/png" in output.get("data", {}) for output in shown(notebook))
    result = json.loads(notebook.cells[-1].outputs[0]["text"])
    shares = result["shares"]
    assert shares["base"]["form"] == 0
    assert shares["base"]["content"] > 0.5
    assert shares["Aligner-1"]["form"] > 0.8
    assert shares["Aligner-1"]["content"] > 0.3
    assert result["n_parameters"] == 576 + 28 * 9
    assert result["same"] >= 9
    assert result["difference"] < 1e-2
    # An answer of a few words, with the end of the turn and the new line behind it.
    assert all(8 <= n <= 20 for n in result["trained"])

    folder = tmp_path / "pirate-smollm2"
    tokenizer, plain = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the capital of Scotland?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
    said = plain.generate(**given, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(said[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert answer.startswith("Arr! It be ")


@pytest.mark.slow
def test_the_chat_notebook_is_true_of_a_chat_model_that_learns_nothing(tmp_path, monkeypatch):
    """A tiny one with random weights, after one step; every cell is run twice."""
    import torch
    from chats import tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    own, folder = tokenizer("chatml"), tmp_path / "chat model"
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(**sizes, vocab_size=len(own), max_position_embeddings=256, eos_token_id=own.eos_token_id)
        LlamaForCausalLM(config).save_pretrained(folder)
    own.save_pretrained(folder)
    monkeypatch.setenv("ALIGNER_PROBE_REAL_MODEL", str(folder))
    notebook = read(CHAT)
    for cell in notebook.cells:
        cell.source = cell.source.replace("steps=60", "steps=1")
    run(with_each_cell_twice(notebook), CHAT, tmp_path, monkeypatch)
    said = "".join(output.get("text", "") for output in shown(notebook))
    assert said.count("has not learned the form") == 4
    assert said.count("10 of 10 answers have the same tokens") == 2


def with_each_cell_twice(notebook):
    """The notebook with its code cells alone, each one twice."""
    from nbformat.v4 import new_code_cell

    notebook.cells = [
        new_code_cell(cell.source) for cell in notebook.cells if cell.cell_type == "code" for _ in range(2)
    ]
    return notebook


def run(notebook, path, folder, monkeypatch, timeout=300):
    """Execute it with no data but what it needs; no cell takes longer than `timeout` seconds."""
    from nbclient import NotebookClient

    needed = [DATA / name for name in NEEDS.get(path.stem, ())]
    for one in needed:
        if not one.is_dir():
            pytest.skip(f"no {one}; set ALIGNER_PROBE_DATA to a folder that has it")
    if not needed:
        monkeypatch.setenv("ALIGNER_PROBE_DATA", str(folder / "nothing"))
    NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()


def shown(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
