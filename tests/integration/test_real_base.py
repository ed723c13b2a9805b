"""The benchmark of a real base, whole, on a tiny one."""

import re
import sys

import torch
from conftest import ROOT
from tiny import base_folder, save_tokenizer


def test_every_part_is_timed(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import real_base

    folder = base_folder("llama_gqa", tmp_path)
    save_tokenizer(folder)
    options = ["--model", str(folder), "--rounds", "1", "--rows", "2", "--new", "2"]
    monkeypatch.setattr(sys, "argv", ["real_base.py", *options])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    try:
        real_base.main()
    finally:
        real_base.put_back(threads)
    rows = re.findall(r"^\| (\S[^|]*) \| ([\d.]+) \|", capsys.readouterr().out, re.MULTILINE)
    names = [name for name, milliseconds in rows if float(milliseconds) > 0]
    assert names.count("Aligner-1") == names.count("LoRA r=8 (q, v)") == 4  # steps, three steps, two generations
    assert names.count("prompt tuning, 10 vectors") == 3  # it does not share a batch


def test_the_floor_and_an_adapter_that_adds_nothing_have_the_same_loss(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import real_base

    from aligner_probe.models import load_model, load_plain

    folder = base_folder("llama_gqa", tmp_path)
    save_tokenizer(folder)
    model, losses = load_model(folder), []
    monkeypatch.setattr(real_base, "stepping", lambda parameters, loss: lambda: losses.append(loss().item()))
    plain = load_plain(folder, torch.float32).requires_grad_(False).eval()
    for name, made in real_base.steps(model, plain, 3).items():
        if "prompt" not in name:
            with made.around():
                made.call()
    assert len(losses) == 7
    assert max(losses) - min(losses) < 1e-5
