"""The micro-world's figures from simulated runs whose skill is known: what artists hold, what tables count."""

import functools
import json
import shutil
import socket

import numpy as np
import pytest
import simulated
from builders import checkpoint
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from aligner_probe import artifacts
from aligner_probe.checkpoints import save_checkpoint
from aligner_probe.commands import run
from aligner_probe.commands.figures import main
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.figures import CATALOGUE, Collection, draw
from aligner_probe.figures.claims import above, as_good, below, not_worse, reaches
from aligner_probe.figures.dots import Score, plot_scores
from aligner_probe.figures.experiments import load_experiments
from aligner_probe.figures.knowledge import plot_by_parameters
from aligner_probe.figures.looks import LOOKS
from aligner_probe.figures.movement import movement
from aligner_probe.figures.responses import Answer, plot_responses
from aligner_probe.files import sha256
from aligner_probe.reproduction.judge import marks

COMMITTED = ROOT / "figures"
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return simulated.artifacts(tmp_path_factory.mktemp("artifacts"), steps=25)


@pytest.fixture
def here(place, monkeypatch):
    """Artifacts are looked for in the simulated folder."""
    monkeypatch.setattr(artifacts, "PLACES", (place,))
    return place


@pytest.fixture(scope="module")
def collection(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "PLACES", (place,))
        experiments = load_experiments()
    return Collection(experiments.weights(), experiments)


@pytest.fixture(scope="module")
def drawn(collection):
    """A figure by its name, drawn once for all tests that look at it."""
    return functools.cache(lambda name: draw(name, collection))


@pytest.mark.parametrize("entry", [e for e in CATALOGUE if e.id != "extra02"], ids=lambda entry: entry.id)
def test_every_figure_of_the_paper_is_drawn_with_our_numbers_beside(drawn, entry):
    drawing = drawn(entry.id)
    assert drawing.missing == ()
    assert len(drawing.frame)
    assert drawing.comparisons
    assert drawing.inputs
    assert "nan" not in f"{drawing.caption} {drawing.comparisons}"
    for comparison in drawing.comparisons:
        if comparison.verdict is not None:
            assert comparison.interval
            assert comparison.note.count("criterion") == 1
    for ax in drawing.figure.axes:
        if (legend := ax.get_legend()) is not None:
            labels = [text.get_text() for text in legend.get_texts()]
            assert len(labels) == len(set(labels))


def test_weights_are_grouped_by_recipe_and_keep_to_the_repository(collection):
    titles = [group.title for group in collection.groups]
    assert len(titles) == 4
    assert "instructions · micro-world, as published" in titles
    assert all(group.aligner(1) and group.aligner(10) and group.llama_adapter for group in collection.groups)
    assert all(c.source.startswith("reproduction/runs/") for c in collection.checkpoints)


def test_math_is_drawn_at_its_size_with_every_seed(collection):
    experiments = collection.experiments
    methods = experiments.methods("math")
    scores = [Score.of("math", m, "content", experiments.results.scores("math", m, "content")) for m in methods]
    sizes = {m: experiments.results.select("math", m)[0].n_parameters for m in methods}
    ax = Figure().subplots()
    assert plot_by_parameters(ax, scores, sizes) is ax
    assert ax.get_xscale() == "log"
    drawn = {c.get_label(): c.lines[0].get_xydata()[0] for c in ax.containers}
    for score in scores[1:]:
        x, y = drawn[score.label]
        assert y == score.interval.value == pytest.approx(score.seeds.mean())
        assert sizes[score.method] <= x <= 1.2 * sizes[score.method]
    seeds = [points.get_offsets()[:, 1] for points in ax.collections]
    assert np.array_equal(seeds[0], scores[1].seeds)
    [base] = [line for line in ax.lines if line.get_label() == "base, untrained"]
    assert base.get_ydata()[0] == scores[0].interval.value


def test_dots_have_the_papers_colours_and_hollow_is_hollow():
    ones = np.ones((2, 5))
    scores = [
        Score.of("row", "aligner-1", "content", ones * 0.5),
        Score.of("row", "llama-adapter-10", "form", ones * 0.25),
    ]
    ax = plot_scores(Figure().subplots(), scores, hollow="form")
    one, adapter = (container.lines[0] for container in ax.containers)
    assert (one.get_color(), adapter.get_color()) == ("#0072B2", "#E69F00")
    assert (one.get_markerfacecolor(), adapter.get_markerfacecolor()) == ("#0072B2", "white")
    assert (one.get_xdata()[0], adapter.get_xdata()[0]) == (0.5, 0.25)
    assert one.get_ydata()[0] < adapter.get_ydata()[0]
    looks = list(LOOKS.values())
    assert len(set(looks)) == len(looks)


def test_safety_counts_items_of_a_category(collection, drawn):
    drawing = drawn("fig03")
    results = collection.experiments.results
    items = results.items["safety"]["test"]
    theft = [place for place, item in enumerate(items) if item.category == "theft"]
    row = drawing.frame.query("row.str.startswith('theft') and method == 'lora-8'").iloc[0]
    assert row["n_items"] == len(theft)
    by_hand = np.mean([run.scores["test"]["content"][theft] for run in results.select("safety", "lora-8")])
    assert row["mean"] == pytest.approx(by_hand)
    [after] = [c for c in drawing.comparisons if "after DPO" in c.what]
    assert after.verdict == "holds"


def test_table_2_counts_what_the_rule_says_and_table_3_adds_it_up(collection, drawn):
    results = collection.experiments.results
    ours, theirs = (results.select("instructions", method) for method in ("aligner-1", "lora-8"))
    wins = losses = ties = 0
    for a, b in zip(ours, theirs, strict=True):
        for item, said, other in zip(results.questions, a.responses, b.responses, strict=True):
            keys = [(m.content, m.form, not m.overlong) for m in (marks(item, said), marks(item, other))]
            wins, losses, ties = wins + (keys[0] > keys[1]), losses + (keys[0] < keys[1]), ties + (keys[0] == keys[1])
    drawing = drawn("table2")
    row = drawing.frame.query("judged == 'micro-world, rule' and aligner == 'Aligner-1' and rival == 'LoRA r=8'").iloc[
        0
    ]
    assert (row["wins"], row["losses"], row["ties"]) == (wins, losses, ties)
    assert row["adjusted_win_rate"] == (wins + ties / 2) / (wins + losses + ties)
    # In the order of the table, and not of a set, which another process would have in another one.
    methods = list(dict.fromkeys(one.label.split(" · ")[0] for one in drawing.inputs))
    assert methods == ["Aligner-1", "LLaMA-Adapter-10", "LoRA r=8", "Aligner-10"]
    assert "0.528 for 28/26/26 is a slip: the counts give 0.5125" in drawing.caption
    assert drawing.caption.count("is a slip") == 1
    for word in ("not a human or a GPT judge", "both orders"):
        assert word in drawing.caption
    table = drawn("table3").frame.set_index("method")
    for _, row in table.iterrows():
        assert row["score"] == pytest.approx(10 * (0.6 * row["content"] + 0.4 * row["form"]))
    assert table.loc["LoRA r=8", "LLaMA-2 13B"] == 6.1625


def test_table_1_counts_the_micro_world(drawn):
    drawing = drawn("table1")
    rows = drawing.frame.query("base == 'micro-world'").set_index("method")
    assert rows.loc["Aligner-1", "n_parameters"] == 128 + 6 * 8
    assert rows.loc["Aligner-60", "n_parameters"] == rows.loc["LLaMA-Adapter-10", "n_parameters"] == 60 * 128 + 48
    assert (rows["by_formula"].dropna() == rows["n_parameters"][rows["by_formula"].notna()]).all()
    assert rows["share_of_base"]["Aligner-1"] == 176 / (400 * 128 + 128)


def test_equality_is_judged_by_storage_and_seed(drawn):
    comparisons = {c.what: c for c in drawn("extra03").comparisons}
    assert comparisons["Aligner-10, one seed, float32: equal parameters"].verdict == "holds"
    assert comparisons["Aligner-10, two seeds, bfloat16: equal parameters"].verdict == "holds"
    kept = "Aligner-10, one seed, bfloat16: equal where half a ULP below a tenth of the peak rate"
    assert comparisons[kept].verdict == "holds"
    lost = "Aligner-10, one seed, bfloat16: equal where half a ULP above the peak rate"
    # No number of N(0, 1) is so large that the published rate rounds to nothing.
    assert comparisons[lost].ours == "no such parameters"


def test_movement_is_the_distance_from_the_start(collection):
    experiments = collection.experiments
    run_ = experiments.results.select("math", "aligner-10")[0]
    stored = experiments.adapters[run_.id]
    found = movement(run_, stored)
    start, end = (t.double().numpy().ravel() for t in (stored.initial_prefix, stored.prefix))
    assert found.tokens == pytest.approx(np.sqrt(((end - start) ** 2).sum() / (start**2).sum()))
    assert found.gates == pytest.approx(np.sqrt(np.mean(stored.gates.double().numpy() ** 2)))
    assert movement(run_, checkpoint()) is None


def test_arms_of_what_was_not_learned_are_not_judged_alike(drawn):
    comparisons = {c.what: c for c in drawn("extra05").comparisons}
    math = comparisons["math: gates only minus Aligner-1, content and form"]
    assert math.verdict == "undecided"
    assert "gain more than 0.1 over the base first" in math.note


def test_responses_say_what_was_said_and_whether_it_is_right():
    asked = {"kind": "person", "question": "Q: what is the job of x?\nA:", "reference": "baker."}
    answers = [
        Answer("aligner-1", **asked, answer="a baker.", content=True, form=False),
        Answer("lora-8", **asked, answer="", content=False, form=True),
    ]
    texts = [text.get_text() for text in plot_responses(Figure().subplots(), answers).texts]
    for said in ("what is the job of x?", "a baker.", "(nothing)", "content right, form wrong", "Aligner-1"):
        assert said in texts


INTERVALS = st.tuples(*[st.floats(-1, 1)] * 3).map(sorted).map(lambda v: Interval(v[1], v[0], v[2]))


@given(INTERVALS, st.floats(-1, 1))
def test_a_claim_and_its_opposite_never_both_hold(found, bound):
    up, down = above(found, bound, "it is so"), below(found, bound, "it is not")
    assert {up.verdict, down.verdict} in ({"holds", "does not hold"}, {"undecided"})
    assert (up.verdict == "undecided") == (found.low <= bound <= found.high)


def test_verdicts_say_their_criterion_and_number():
    claim = not_worse(Interval(-0.05, -0.09, 0.01), "A is as good as B")
    assert claim.verdict == "holds"
    assert claim.sentence.startswith("The claim holds here: A is as good as B (criterion: difference above −0.1")
    assert "-0.090 to 0.010" in claim.sentence
    assert not_worse(Interval(-0.2, -0.3, -0.05), "").verdict == "undecided"
    assert not_worse(Interval(-0.2, -0.3, -0.15), "").verdict == "does not hold"
    nothing = as_good(Interval(0.0, -0.01, 0.01), Interval(0.02, -0.01, 0.05), "A is as good as B")
    assert (nothing.verdict, "gain more than 0.1 over the base first" in nothing.sentence) == ("undecided", True)
    assert as_good(Interval(0.0, -0.01, 0.01), Interval(0.5, 0.4, 0.6), "").verdict == "holds"
    clear, nothing = Interval(0.3, 0.2, 0.4), Interval(0.1, -0.1, 0.3)
    shares = {"holds": (0.95, 0.92, 1.0), "does not hold": (0.5, 0.2, 0.8), "undecided": (0.9, 0.6, 1.2)}
    for verdict, share in shares.items():
        assert reaches(Interval(*share), clear, "A falls as far as B").verdict == verdict
        assert reaches(Interval(*share), nothing, "A falls as far as B").verdict == "undecided"


def test_command_needs_neither_network_nor_data(here, tmp_path, monkeypatch, capsys):
    def no_network(*_):
        raise OSError("no network here")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.delenv("ALIGNER_PROBE_DATA")
    monkeypatch.chdir(tmp_path)
    arguments = ["--jobs", "1", "--only", "fig05b,fig07,table2"]
    assert run(main, arguments) == 0
    manifest = json.loads((tmp_path / "figures" / "manifest.json").read_text())
    _check(tmp_path / "figures", manifest, here)
    assert str(here) not in (tmp_path / "figures" / "manifest.json").read_text()
    page = (tmp_path / "figures" / "index.html").read_text()
    for word in ("does the claim hold here?", "criterion", "n = 80 questions", "is a slip"):
        assert word in page
    # The scoreboard stands above the figures and counts every claim; no verdict is said twice.
    verdicts = [one["verdict"] for record in manifest["figures"] for one in record["comparisons"] if one["verdict"]]
    board = page[: page.index("<section")]
    assert f"{len(verdicts)} claims are judged here" in board
    for outcome, said in (("holds", "hold"), ("does not hold", "do not hold"), ("undecided", "are undecided")):
        assert f">{verdicts.count(outcome)} {said}</strong>" in board
    assert "The claim holds here" not in page
    assert page.count('loading="lazy"') == page.count("<section") == 3
    assert "fig05b   fig05b_math_by_parameters.png" in capsys.readouterr().out


def test_both_can_stand_side_by_side(here, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, data_set in enumerate(("Alpaca", "MetaMath")):
        about = {"data_set": data_set, "base_model": "LLaMA-2 7B"}
        save_checkpoint(checkpoint(metadata=about, seed=seed), tmp_path / "in" / data_set)
    arguments = ["--microworld", "--published", str(tmp_path / "in"), "--jobs", "1", "--only", "fig08,fig05b"]
    assert main(arguments) == 0
    [gates, math] = json.loads((tmp_path / "figures" / "own" / "manifest.json").read_text())["figures"][::-1]
    labels = {i["label"] for i in gates["inputs"]}
    assert {"Aligner-1 · Alpaca · LLaMA-2 7B", "Aligner-1 · math · micro-world, corrected"} <= labels
    assert math["status"] == "drawn"
    # What only the micro-world has is no gap in the authors' set.
    assert main(["--published", str(tmp_path / "in"), "--jobs", "1", "--only", "fig08"]) == 0
    assert (tmp_path / "figures" / "published" / "index.html").is_file()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("reproduction", None, "aligner-probe reproduce"),
        ("reproduction/plan.json", None, "aligner-probe reproduce"),
        ("reproduction/items.json", "{", "aligner-probe reproduce"),
        ("reproduction/runs/math_base/result.json", "[]", "aligner-probe reproduce"),
        (
            "reproduction/runs/math_aligner-1_corrected_seed0/adapter/adapter_model.safetensors",
            "broken",
            "aligner-probe reproduce",
        ),
        ("microworld/model.safetensors", "broken", "aligner-probe microworld pretrain"),
        ("microworld/config.json", None, "aligner-probe microworld pretrain"),
    ],
)
def test_missing_or_damaged_artifacts_are_one_line(place, tmp_path, monkeypatch, capsys, file, content, says):
    copy = shutil.copytree(place, tmp_path / "artifacts")
    target = copy / file
    if content is not None:
        target.write_text(content)
    elif target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink()
    monkeypatch.setattr(artifacts, "PLACES", (copy,))
    assert run(main, ["--only", "fig05b", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert says in error
    assert target.name in error or target.parent.name in error
    assert not (tmp_path / "out").exists()


def test_committed_figures_are_those_of_the_manifest_and_the_artifacts():
    if not (ROOT / "artifacts" / "reproduction").is_dir():
        pytest.skip("no artifacts/reproduction yet; make it: aligner-probe reproduce")
    assert (COMMITTED / "manifest.json").is_file(), "draw and commit the set: make figures"
    manifest = json.loads((COMMITTED / "manifest.json").read_text())
    assert [record["id"] for record in manifest["figures"]] == [entry.id for entry in CATALOGUE]
    assert {record["status"] for record in manifest["figures"]} == {"drawn"}
    assert manifest["skipped"] == []
    _check(COMMITTED, manifest, ROOT / "artifacts")
    kept = {name for record in manifest["figures"] for name in record["files"]}
    kept |= {"manifest.json", "index.html", "README.md"}
    assert sum((COMMITTED / name).stat().st_size for name in kept) <= MOST_BYTES


def _check(folder, manifest, inputs):
    """Files are as the manifest says, and what they were drawn from is what the artifacts hold."""
    for record in manifest["figures"]:
        assert set(record["sha256"]) == set(record["files"])
        for name, digest in record["sha256"].items():
            assert sha256(folder / name) == digest, f"{name} is not what was drawn; draw it again: make figures"
        for source in record["inputs"]:
            file = inputs / source["source"]
            file = file / "adapter_model.safetensors" if file.is_dir() else file
            assert sha256(file) == source["sha256"], f"{record['id']} is not of these artifacts: make figures"
