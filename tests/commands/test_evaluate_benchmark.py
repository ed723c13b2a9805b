"""`aligner-probe evaluate benchmark` on a small model of stories, with tasks of a folder."""

import json

import pytest
from benchmarked import data_in, lm_eval
from conftest import small_model
from in_process import called
from tiny_adapters import moved

from aligner_probe.commands import evaluate_benchmark
from aligner_probe.commands.evaluate import main, parser
from aligner_probe.harness import library, local


@pytest.fixture
def folder(tmp_path, monkeypatch):
    short = local.GSM8K | {"generation_kwargs": local.GSM8K["generation_kwargs"] | {"max_gen_toks": 4}}
    monkeypatch.setattr(local, "GSM8K", short)
    return data_in(tmp_path / "data")


@pytest.fixture
def adapter(tmp_path):
    import aligner_probe as ap

    model = ap.load_model(small_model("stories260K"))
    return ap.save_adapter(moved(ap.Aligner(model, n_tokens=1, start_layer=1, seed=0)), tmp_path / "one")


def benchmark(capsys, folder, tmp_path, *more, tasks="mmlu,gsm8k"):
    words = ("--model", small_model("stories260K"), "--tasks", tasks, "--data", folder, "--out", tmp_path / "out")
    return called(capsys, main, "benchmark", *words, *more)


def test_adapters_are_compared_with_the_base_model_and_the_same_command_goes_on(
    capsys, folder, adapter, tmp_path, monkeypatch
):
    lm_eval()
    options = ("--adapter", adapter, "--shots", 1, "--limit", 6, "--batch-size", 4, "--check-batch", 2)
    planned = benchmark(capsys, folder, tmp_path, *options, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "mmlu: 6 items (of 8, drawn at random) in 2 tasks, 1 example before each question; 2 of 2" in planned.stdout
    assert "min in all" in planned.stdout
    assert not (tmp_path / "out").exists()

    done = benchmark(capsys, folder, tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert "requests" in done.stderr  # the bar
    assert done.stderr.count("Running") == 0  # lm-eval's own bars
    assert "Questions are asked as plain texts, without a chat template." in done.stdout
    assert "one − base" in done.stdout
    assert "strict-match" in done.stdout
    assert "flexible-extract" in done.stdout
    assert "0 of 2 answers differ" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [(one["one"], one["other"], one["n"]) for one in report["benchmarks"]["mmlu"]["differences"]] == [
        ("one", "base", 6)
    ]
    assert report["setting"]["asking"]["shots"] == 1
    rows = [json.loads(line) for line in (tmp_path / "out/items/one/gsm8k.jsonl").read_text().splitlines()]
    assert len(rows) == 12  # two filters
    assert {"prompt", "said", "answer", "target", "scores"} <= set(rows[0])

    monkeypatch.setattr("aligner_probe.harness.run.ask", None)  # nothing may be asked again
    again = benchmark(capsys, folder, tmp_path, *options)
    assert again.returncode == 0, again.stderr
    assert again.stdout == done.stdout
    other = benchmark(capsys, folder, tmp_path, *options, "--seed", 1)
    assert other.returncode == 2
    assert "other options" in other.stderr


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--shots", -1), "expected 0 or more"),
        (("--limit", 0), "expected 1 or more"),
        (("--as-chat",), "has no chat template"),
        (("--shots", 5), "--shots 3 or fewer"),
    ],
)
def test_options_that_do_not_fit_are_one_line(capsys, folder, tmp_path, more, message):
    lm_eval()
    done = benchmark(capsys, folder, tmp_path, *more, tasks="mmlu")
    assert done.returncode == 2
    # above it there may be transformers' bar of the weights
    assert message in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_missing_lm_eval_is_said_before_anything_is_read(capsys, folder, tmp_path, monkeypatch):
    from importlib import metadata

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    done = called(capsys, main, "benchmark", "--model", "nowhere", "--tasks", "mmlu", "--out", tmp_path / "out")
    assert done.returncode == 2
    assert done.stderr == f"error: benchmarks need the package lm-eval, which is missing: {library.INSTALL}\n"


@pytest.mark.parametrize(
    ("given", "n"),
    [
        ((), 0),
        (("--dtype", "bfloat16"), 16),
        (("--quantization", "nf4"), 16),
        (("--dtype", "bfloat16", "--check-batch", "0"), 0),
        (("--check-batch", "5"), 5),
    ],
)
def test_batches_are_checked_where_the_precision_is_low(given, n):
    needed = ("benchmark", "--model", "M", "--tasks", "mmlu", "--out", "out")
    assert evaluate_benchmark.n_checked(parser().parse_args([*needed, *given])) == n
