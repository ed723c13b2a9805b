"""Figures by what their artists hold, and the gallery by what it leaves on disk."""

import csv
import json
import os
import resource
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import checkpoint, lit_adapter_state, lit_aligner_state, run, save_pth
from in_process import called
from matplotlib.figure import Figure

from aligner_probe.analysis.embeddings import embed_tokens
from aligner_probe.analysis.equality import compare_numbers
from aligner_probe.analysis.gates import gate_statistics
from aligner_probe.checkpoints import save_checkpoint, scan_checkpoints
from aligner_probe.commands.figures import main
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures import CATALOGUE, Collection, draw
from aligner_probe.figures.catalogue import find
from aligner_probe.figures.embeddings import plot_map
from aligner_probe.figures.equality import plot_differences, plot_equality_by_magnitude, plot_half_ulp
from aligner_probe.figures.gates import plot_all_gates, plot_by_head, plot_by_layer
from aligner_probe.figures.looks import LOOKS, NATURES, looks_of


def complete(**shape):
    """One checkpoint of each kind the paper's figures compare, on both data sets."""
    made = []
    for place, data_set in enumerate(("Alpaca", "MetaMath")):
        about = {"metadata": {"data_set": data_set, "base_model": "a base"}}
        for n_tokens in (1, 10, 100):
            seed = 10 * n_tokens + place
            made.append(checkpoint(n_tokens=n_tokens, seed=seed, **about, **shape))
        made.append(checkpoint(method="llama_adapter", n_tokens=10, seed=5 + place, **about, **shape))
    return Collection(made)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_by_layer_draws_the_numbers_and_their_interval(ax):
    result = gate_statistics(checkpoint())
    assert plot_by_layer(ax, result, what="std", color="#0072B2", label="Aligner-1") is ax
    line, zero = ax.lines
    assert list(zero.get_ydata()) == [0, 0]
    assert ax.get_ylim()[0] == 0
    assert np.array_equal(line.get_ydata(), result.std_by_layer)
    assert list(line.get_xdata()) == list(range(2, 8))
    assert (line.get_color(), line.get_label()) == ("#0072B2", "Aligner-1")
    assert np.array_equal(drawn_intervals(ax), result.std_by_layer_interval)
    assert "n = 8 heads" in ax.get_xlabel()


def test_a_later_checkpoint_with_larger_gates_is_not_cut_off(ax):
    small, large = gate_statistics(checkpoint()), gate_statistics(replace(checkpoint(), gates=9 * checkpoint().gates))
    for result in (small, large):
        plot_by_layer(ax, result)
    assert ax.get_ylim()[1] > large.std_by_layer_interval.max()


def drawn_intervals(ax):
    """The vertical lines of an axis, as (low and high, number of lines)."""
    [lines] = ax.collections
    return np.array([segment[:, 1] for segment in lines.get_segments()]).T


def test_by_head_and_all_gates(ax):
    result = gate_statistics(checkpoint())
    plot_by_head(ax, result, what="mean")
    assert np.array_equal(ax.lines[0].get_ydata(), result.mean_by_head)
    assert ax.lines[0].get_linestyle() == "None"  # positions have no order
    assert np.array_equal(drawn_intervals(ax), result.mean_by_head_interval)
    assert [0, 0] in [list(line.get_ydata()) for line in ax.lines]
    other = Figure().subplots()
    plot_all_gates(other, result)
    assert np.array_equal(other.lines[0].get_ydata(), checkpoint().gates.double().flatten())


def test_gates_at_powers_of_two_have_rings_and_lines(ax):
    gates = checkpoint().gates.clone()
    gates[1, 3], gates[4, 0] = 0.5, -0.25
    result = gate_statistics(replace(checkpoint(), gates=gates))
    plot_all_gates(ax, result)
    [rings] = [line for line in ax.lines if line.get_label() == "exactly a power of two"]
    assert list(zip(rings.get_xdata(), rings.get_ydata(), strict=True)) == [(11, 0.5), (32, -0.25)]
    lines = {line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    assert lines
    assert all(abs(np.log2(abs(height))) % 1 == 0 for height in lines)


def test_differences_keep_zeros_apart(ax):
    equality = compare_numbers(run(order_seed=1), run(order_seed=2))
    plot_differences(ax, equality, color="#0072B2")
    heights = [patch.get_height() for patch in ax.patches]
    assert sum(heights) == equality.prefix.n - equality.n_equal
    [stem] = [line for line in ax.lines if line.get_label() == "exactly equal"]
    assert stem.get_xydata().tolist() == [[0, equality.n_equal]]
    assert min(patch.get_x() for patch in ax.patches) == 0  # no bar stands at a difference below zero
    assert f"{equality.n_equal:,} of 4,096" in ax.texts[0].get_text()


def test_ladder_draws_shares_and_half_ulps(ax):
    equality = compare_numbers(run(order_seed=1, lr=2e-3), run(order_seed=2, lr=2e-3))
    plot_equality_by_magnitude(ax, equality, color="#0072B2")
    shares = ax.containers[0].lines[0].get_ydata()
    assert np.array_equal(shares, [band.share_equal for band in equality.bands if band.n])
    ladder = Figure().subplots()
    plot_half_ulp(ladder, equality)
    assert np.array_equal(ladder.lines[0].get_ydata(), [band.half_ulp for band in equality.bands])


def test_map_draws_every_token_and_says_what_it_is(ax):
    one, ten = checkpoint(n_tokens=1), checkpoint(n_tokens=10, seed=1)
    result = embed_tokens([one, ten])
    plot_map(ax, result, looks=dict(zip((one.label, ten.label), looks_of([one, ten]), strict=True)))
    assert [len(points.get_offsets()) for points in ax.collections] == [1, 10]
    assert np.array_equal(np.concatenate([p.get_offsets() for p in ax.collections]), result.coordinates)
    for word in ("t-SNE", "perplexity", "seed 0", "trustworthiness"):
        assert word in ax.get_xlabel()


@pytest.mark.parametrize(
    "entry", [e for e in CATALOGUE if e.id != "extra02" and not e.of_runs], ids=lambda entry: entry.id
)
def test_everything_is_drawn_from_a_complete_collection(entry):
    drawing = draw(entry.id, complete())
    assert drawing.missing == ()
    assert len(drawing.frame)
    assert drawing.caption
    assert entry.title in drawing.figure.get_suptitle()
    for ax in drawing.figure.axes:
        if (legend := ax.get_legend()) is not None:
            labels = [text.get_text() for text in legend.get_texts()]
            assert labels
            assert len(labels) == len(set(labels))


def test_methods_have_the_papers_colours():
    axes = draw("fig07", complete()).figure.axes
    assert [ax.get_title() for ax in axes] == ["Alpaca · a base", "MetaMath · a base"]
    colours = {line.get_label(): line.get_color() for line in axes[0].lines if not line.get_label().startswith("_")}
    assert colours["Aligner-1"] == "#0072B2"
    assert colours["LLaMA-Adapter-10"] == "#E69F00"
    assert len(set(colours.values())) == 4


def test_a_method_has_one_look_in_every_figure():
    about = {"metadata": {"data_set": "Alpaca", "base_model": "a base"}}
    one, ten, hundred = (checkpoint(n_tokens=n, **about) for n in (1, 10, 100))
    adapter = checkpoint(method="llama_adapter", n_tokens=10, **about)
    again, odd = checkpoint(seed=1), checkpoint(n_tokens=7)
    panel = [one, ten, hundred, adapter, again, odd]
    looks = looks_of(panel)
    assert len(set(looks)) == len(panel)
    assert looks[:4] == [LOOKS[arm] for arm in ("aligner-1", "aligner-10", "aligner-100", "llama-adapter-10")]
    # What else is in the panel changes nothing, and a second run of a kind keeps the marker.
    assert looks_of([adapter, ten]) == [looks[3], looks[1]]
    assert looks[4].marker == looks[0].marker
    drawn = draw("fig07", Collection([adapter, one])).figure.axes[0]
    markers = {line.get_label(): line.get_marker() for line in drawn.lines}
    assert markers["LLaMA-Adapter-10"] == LOOKS["llama-adapter-10"].marker == "v"
    # No method looks like another, and no nature of a task has the colour of a method.
    assert len(set(LOOKS.values())) == len(LOOKS)
    kept_apart = {look.color for nature, look in NATURES.items() if nature not in ("open", "control")}
    assert not kept_apart & {look.color for look in LOOKS.values()}


def test_authors_figures(authors):
    collection = Collection(authors.values())
    drawing = draw("fig16", collection)
    [comparison] = drawing.comparisons
    assert (comparison.paper, comparison.ours) == ("2408 of 4096", "2,407 of 4,096")
    assert "LLaMA-Adapter trained on Alpaca and on MetaMath (the authors published none)" in drawing.missing
    assert len(draw("fig07", collection).figure.axes) == 2
    rows = draw("table1", collection).frame.set_index("method")["n_parameters"]
    assert rows["Aligner-1"] == 5056
    assert rows["Aligner-10"] == 41_920
    assert rows["Aligner-300"] == rows["LLaMA-Adapter-10"] == 1_229_760
    assert rows["LoRA r=8"] == 4_194_304
    with pytest.raises(AlignerProbeError, match="LLaMA-Adapter"):
        draw("fig13", collection)


def test_other_sizes_and_runs_that_share_a_name():
    shape = {"d_model": 512, "n_layers": 38, "n_heads": 40, "start_layer": 2}
    about = {"metadata": {"data_set": "Alpaca", "base_model": "13B"}, **shape}
    collection = Collection(
        [checkpoint(seed=1, **about), checkpoint(seed=2, **about), checkpoint(n_tokens=300, seed=3, **about)]
    )
    [ax] = draw("fig07", collection).figure.axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(set(labels)) == 3
    assert draw("fig11", collection).frame["layer"].max() == 39
    assert draw("fig12", collection).frame.query("drawn == 'map'").shape[0] == 301


def test_one_gate_a_layer_is_said_not_drawn_as_nothing():
    scalar = checkpoint(method="llama_adapter", n_heads=1)
    with pytest.raises(AlignerProbeError, match="one gate a layer"):
        draw("fig07", Collection([scalar]))
    drawing = draw("fig07", Collection([scalar, checkpoint(seed=1)]))
    assert any("one gate a layer" in text for text in drawing.missing)
    assert "nan" not in str(drawing.comparisons)
    assert draw("fig08", Collection([scalar])).figure.axes[0].get_legend().get_title().get_text() == ""


def test_ones_own_data_sets_are_not_called_missing():
    about = {"metadata": {"data_set": "pirates", "base_model": "tiny"}}
    collection = Collection([checkpoint(**about), checkpoint(method="llama_adapter", n_tokens=10, seed=1, **about)])
    assert draw("fig07", collection).missing == ()


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


def test_many_pairs_stay_readable():
    about = {"metadata": {"base_model": "tiny"}}
    made = [
        checkpoint(
            method=method,
            n_tokens=2,
            seed=10 * i + (method == "aligner"),
            metadata={"data_set": f"set {i}", "base_model": "tiny"},
        )
        for i in range(5)
        for method in ("aligner", "llama_adapter")
    ]
    drawing = draw("extra01", Collection(made))
    assert about["metadata"]["base_model"] in drawing.frame["a"][0]
    *panels, ladder = drawing.figure.axes
    assert [len(ax.containers) for ax in panels] == [1] * 6
    assert ladder.get_ylabel() == "half a ULP"
    assert "Of 20 pairs 6 are drawn" in drawing.caption
    assert drawing.frame.groupby(["a", "b"]).ngroups == 20


def test_find_suggests_the_nearest():
    assert [entry.id for entry in find(["fig06a", "fig06b", "fig07"])] == ["fig07", "fig15"]
    with pytest.raises(AlignerProbeError, match=r"did you mean fig07.*table1"):
        find(["fig7"])


def write_collection(folder):
    for c in complete().checkpoints:
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
