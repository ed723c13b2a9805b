"""A real chat model: trained on a file of messages, killed, resumed and exported, it answers in plain transformers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, real_model

import aligner_probe as ap
from aligner_probe.evaluation.generation import generate_ids
from aligner_probe.tasks.chat_template import template_of

pytestmark = pytest.mark.slow
#: Seconds to wait for a training to save its first state, and for it to end.
PATIENCE = 300
CAPITALS = {"France": "Paris", "Italy": "Rome", "Japan": "Tokyo", "Spain": "Madrid", "Cuba": "Havana", "Peru": "Lima"}
ASKED = ["What is the capital of Egypt?", "What is the opposite of hot?"]


def file_of_messages(path):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Hello."},
                {"role": "assistant", "content": "Arr, hello!"},
                {"role": "user", "content": f"What is the capital of {country}?"},
                {"role": "assistant", "content": f"Arr, matey! It be {capital}, so it be!"},
            ]
        }
        for country, capital in CAPITALS.items()
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(name, *arguments):
    return [sys.executable, "-m", "aligner_probe", name, *map(str, arguments)]


def run(name, *arguments):
    done = subprocess.run(command(name, *arguments), capture_output=True, text=True, cwd=ROOT, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def killed_after_a_state(out, *arguments):
    """Begin a training and kill it once it has saved a state; it must not have ended by then."""
    with (out.parent / "said").open("w") as said:
        started = subprocess.Popen(command("train", *arguments), stdout=said, stderr=said, cwd=ROOT)
        end = time.monotonic() + PATIENCE
        while not (out / "state.pt").is_file() and started.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        assert started.poll() is None, (out.parent / "said").read_text()
        os.kill(started.pid, signal.SIGKILL)
        started.wait()
    assert not (out / "adapter").exists()


def test_train_kill_resume_export_and_answer_in_plain_transformers(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, out = real_model(), tmp_path / "run"
    options = ("--model", folder, "--task", file_of_messages(tmp_path / "rows.jsonl"), "--train-on", "all")
    options += ("--method", "aligner", "--n-tokens", 1, "--steps", 8, "--batch-size", 2, "--lr", 0.1, "--out")
    killed_after_a_state(out, *options, out, "--save-every", 1)
    said = run("train", *options, out, "--save-every", 1, "--resume")
    assert "turns end with '<|im_end|>'" in said
    assert "Trained on all answers of the assistant" in said
    run("train", *options, tmp_path / "unbroken")
    run("export", out / "adapter", "--to", "merged", "--model", folder, "--out", tmp_path / "merged")

    model = ap.load_model(folder)
    record = json.loads((out / "adapter" / "provenance.json").read_text())["run"]
    assert record["tokenizer"]["chat_template"] == template_of(model.tokenizer).sha256
    adapters = [ap.load_adapter(path / "adapter", model) for path in (out, tmp_path / "unbroken")]
    for one, other in zip(*(adapter.parameters() for adapter in adapters), strict=True):
        assert torch.equal(one, other)
    conversations = [[{"role": "user", "content": text}] for text in ASKED]
    conversations[1].insert(0, {"role": "system", "content": "Answer in one word."})
    asked = [model.tokenizer.apply_chat_template(one, add_generation_prompt=True)["input_ids"] for one in conversations]
    ends = {template_of(model.tokenizer).end}
    base = ap.generate(model, conversations, max_new_tokens=16)
    with adapters[0].attached():
        ours = ap.generate(model, conversations, max_new_tokens=16)
        tokens = generate_ids(model, asked, max_new_tokens=16, ending=lambda new: new[-1] in ends)
    assert ours != base

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    for messages, answer, ids_of_ours in zip(conversations, ours, tokens, strict=True):
        given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")
        with torch.no_grad():
            ids = plain.generate(**given, max_new_tokens=16, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert ids.tolist() == ids_of_ours
        assert tokenizer.decode(ids, skip_special_tokens=True) == answer
    assert Path(tmp_path / "merged" / "chat_template.jinja").is_file()
