"""Figures by what their artists hold."""

from dataclasses import replace

import numpy as np
import pytest
from builders import checkpoint, complete_set, run
from matplotlib.figure import Figure

from aligner_probe.analysis.embeddings import embed_tokens
from aligner_probe.analysis.equality import compare_numbers
from aligner_probe.analysis.gates import gate_statistics
from aligner_probe.errors import AlignerProbeError
from aligner_probe.figures import CATALOGUE, Collection, draw
from aligner_probe.figures.catalogue import find
from aligner_probe.figures.embeddings import plot_map
from aligner_probe.figures.equality import plot_differences, plot_equality_by_magnitude, plot_half_ulp
from aligner_probe.figures.gates import plot_all_gates, plot_by_head, plot_by_layer
from aligner_probe.figures.looks import LOOKS, NATURES, looks_of


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
    drawing = draw(entry.id, Collection(complete_set()))
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
    axes = draw("fig07", Collection(complete_set())).figure.axes
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
