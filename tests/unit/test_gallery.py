"""The gallery by what it leaves on disk, and the command that draws it by its errors."""

import csv
import json
import os
import resource
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest
import torch
from builders import checkpoint, complete_set, lit_adapter_state, lit_aligner_state, save_pth
from in_process import called

from aligner_probe.checkpoints import save_checkpoint, scan_checkpoints
from aligner_probe.commands.figures import main


def test_one_figure_that_cannot_be_drawn_leaves_the_others(tmp_path):
    about = {"metadata": {"data_set": "pirates", "base_model": "tiny"}, "n_layers": 2}
    for c in (checkpoint(**about), checkpoint(method="llama_adapter", seed=1, **about)):
        save_checkpoint(c, tmp_path / "in" / c.method)
    arguments = ["--checkpoints", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main([*arguments, "--only", "fig08,fig13"]) == 0
    records = {r["id"]: r for r in json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]}
    assert (records["fig08"]["status"], records["fig13"]["status"]) == ("drawn", "missing")
    assert "at least 4" in records["fig13"]["missing"][0]


def test_a_strangers_manifest_deletes_nothing(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "victim.txt").write_text("keep")
    (out / "victim.txt").write_text("keep")
    figures = [{"id": "fig07", "files": ["../victim.txt"]}, {"files": []}, {"id": "x", "files": ["victim.txt"]}]
    (out / "manifest.json").write_text(json.dumps({"figures": figures}))
    save_checkpoint(checkpoint(), tmp_path / "in" / "one")
    arguments = ["--checkpoints", str(tmp_path / "in"), "--out", str(out), "--jobs", "1"]
    assert main([*arguments, "--only", "table1"]) == 0
    assert main([*arguments, "--only", "fig08"]) == 0
    assert (tmp_path / "victim.txt").exists()
    assert (out / "victim.txt").exists()


def test_one_file_by_two_ways_is_one_checkpoint(tmp_path):
    save_checkpoint(checkpoint(), tmp_path / "in" / "one")
    place = str(tmp_path / "in")
    assert main(["--checkpoints", place, place, "--out", str(tmp_path / "out"), "--jobs", "1", "--only", "fig08"]) == 0
    [record] = json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]
    assert len(record["inputs"]) == 1


def write_collection(folder):
    for c in complete_set():
        name = f"{c.method}-{c.n_tokens}-{c.data_set}"
        state = lit_aligner_state(c) if c.method == "aligner" else lit_adapter_state(c)
        save_pth(state, folder / c.data_set.lower() / f"{name}.pth")
    return folder


def figures(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "aligner_probe.figures", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


def test_gallery_on_disk(tmp_path):
    inputs = write_collection(tmp_path / "in")
    (inputs / "broken.pth").write_text("{}")
    out = tmp_path / "out"
    arguments = ["--checkpoints", str(inputs), "--out", str(out), "--jobs", "1"]
    assert main([*arguments, "--only", "fig06a,fig15,table1", "--formats", "png,svg,pdf"]) == 0
    stems = ["fig07_gate_std_by_layer", "fig15_four_models", "table1_parameter_counts"]
    expected = {f"{stem}.{ending}" for stem in stems for ending in ("png", "svg", "pdf", "csv")}
    assert {path.name for path in out.iterdir()} == expected | {"manifest.json", "index.html"}
    ElementTree.parse(out / "fig07_gate_std_by_layer.svg")
    manifest = json.loads((out / "manifest.json").read_text())
    assert [record["id"] for record in manifest["figures"]] == ["table1", "fig07", "fig15"]
    found, _ = scan_checkpoints(inputs)
    hashes = {i["sha256"] for record in manifest["figures"] for i in record["inputs"]}
    assert hashes <= {c.sha256 for c in found}
    assert [file["path"] for file in manifest["skipped"]] == [str(inputs / "broken.pth")]
    for record in manifest["figures"]:
        assert record["versions"]["torch"] == torch.__version__
    page = (out / "index.html").read_text()
    for word in ("fig07_gate_std_by_layer.png", "broken.pth", "JSON text", "4.19K"):
        assert word in page
    with (out / "fig07_gate_std_by_layer.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 * 6
    # one more figure by name keeps the others; the page shows all
    assert main([*arguments, "--only", "fig08"]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert [record["id"] for record in manifest["figures"]] == ["table1", "fig07", "fig08", "fig15"]
    assert expected < {path.name for path in out.iterdir()}


@pytest.mark.slow
def test_two_runs_draw_the_same(tmp_path):
    inputs = write_collection(tmp_path / "in")
    for name in ("one", "two"):
        arguments = ["--checkpoints", str(inputs), "--only", "fig07,fig12", "--formats", "png,svg", "--jobs", "1"]
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    for path in (tmp_path / "one").iterdir():
        if path.suffix in (".png", ".svg", ".csv"):
            assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    written = json.loads((tmp_path / "one" / "manifest.json").read_text())["written"]
    time.sleep(1.1)  # dates have seconds
    assert main([*arguments, "--out", str(tmp_path / "one")]) == 0
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["written"] == written


@pytest.mark.slow
def test_published_command_in_two_processes(published, tmp_path):
    done = figures(
        "--published", published, "--out", tmp_path, "--jobs", "2", "--only", "table1,fig07,fig12,fig13,extra01"
    )
    assert done.returncode == 0, done.stderr
    assert "fig13    not drawn; needs LLaMA-Adapter" in done.stdout
    assert "is JSON text" in done.stderr
    records = {r["id"]: r for r in json.loads((tmp_path / "manifest.json").read_text())["figures"]}
    assert records["fig13"]["status"] == "missing"
    assert records["fig12"]["status"] == "partial"
    assert records["extra01"]["status"] == "drawn"
    strict = figures("--published", published, "--out", tmp_path / "strict", "--strict")
    assert (strict.returncode, strict.stderr.count("--strict: 1 files could not be read")) == (2, 1)
    assert not (tmp_path / "strict").exists()


@pytest.mark.slow
def test_strict_refuses_missing_panels_and_writes_nothing(tmp_path):
    inputs = tmp_path / "in"
    made = [checkpoint(metadata={"data_set": "Alpaca"}), checkpoint(metadata={"data_set": "MetaMath"}, seed=1)]
    for c in made:
        save_checkpoint(c, inputs / c.data_set)
    out = tmp_path / "out"
    done = figures("--checkpoints", inputs, "--out", out, "--only", "fig07,fig13", "--strict")
    assert done.returncode == 2
    assert "--strict: 2 of 2 figures lack inputs" in done.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "fig99"], "no figure is named 'fig99'"),
        (["--only", "fig7"], "did you mean fig07?"),
        (["--formats", "gif"], "unknown format 'gif'"),
        (["--checkpoints", "nowhere"], "error: nowhere: no such folder"),
        (["--published", "nowhere"], "error: nowhere: no such folder"),
        (["--onl", "fig07"], "unrecognized arguments"),
    ],
)
def test_errors_are_one_line(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    done = called(capsys, main, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_folder_without_checkpoints_or_in_the_way(tmp_path, capsys):
    inputs = write_collection(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    done = called(capsys, main, "--checkpoints", tmp_path / "empty", "--out", tmp_path / "out")
    assert (done.returncode, "no readable checkpoint" in done.stderr) == (2, True)
    (tmp_path / "file").write_text("in the way")
    done = called(capsys, main, "--checkpoints", inputs, "--out", tmp_path / "file", "--only", "table1")
    assert (done.returncode, "cannot write to" in done.stderr) == (2, True)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.slow
def test_full_disk_leaves_the_old_set(tmp_path):
    inputs, out = write_collection(tmp_path / "in"), tmp_path / "out"
    arguments = ["--checkpoints", inputs, "--out", out, "--only", "fig07", "--jobs", "1"]
    assert figures(*arguments).returncode == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    small = 20_000

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))

    done = figures(
        *arguments, "--formats", "pdf,png", preexec_fn=limit, env=os.environ | {"MPLCONFIGDIR": str(tmp_path)}
    )
    assert done.returncode == 2, done.stderr
    assert "cannot write to" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_no_data_and_no_network_is_one_line(tmp_path):
    # a proxy on a closed port stands for "no network"
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    env = os.environ | proxies | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    env.pop("ALIGNER_PROBE_DATA")
    (tmp_path / "here").mkdir()
    done = figures("--published", "--only", "table1", cwd=tmp_path / "here", env=env)
    assert done.returncode == 2
    assert "ALIGNER_PROBE_DATA" in done.stderr
    assert "could not download" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list((tmp_path / "here").iterdir()) == []
