"""Options that are chosen by a word: any other word is refused in one line with all choices and the nearest."""

import subprocess
import sys

import learning
import numpy as np
import pytest
from builders import checkpoint
from hypothesis import given
from hypothesis import strategies as st

import aligner_probe as ap
from aligner_probe.errors import AlignerProbeError, did_you_mean, nearest, one_of


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_a_choice_is_given_back_and_anything_else_lists_all(choices):
    assert one_of(choices[0], choices, "option") == choices[0]
    with pytest.raises(AlignerProbeError, match="option") as caught:
        one_of("".join(choices) + "!", choices, "option")
    assert all(" ".join(choice.split()) in str(caught.value) for choice in choices)


def test_choices_of_other_types_are_not_mixed_up():
    for value in (1, 0, "True", None, "Auto", ["auto"], np.array([1, 2])):
        with pytest.raises(AlignerProbeError, match="cache"):
            one_of(value, ("auto", True, False), "cache")
    assert one_of(False, ("auto", True, False), "cache") is False


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [("alinger", ("aligner", "lora"), "aligner"), ("TSNE", ("tsne", "umap"), "tsne"), ("pca", ("tsne", "umap"), None)],
)
def test_the_nearest_name(name, names, expected):
    assert nearest(name, names) == expected
    assert did_you_mean(name, names) == (f"did you mean {expected}? " if expected else "")


def _points():
    return [checkpoint(n_tokens=6)]


def _scores():
    from aligner_probe.evaluation.scores import Scores

    one = np.ones(2)
    return Scores("exact", one, one, one, ("a", "b"), ("a", "b"))


def _rows(tmp_path):
    file = tmp_path / "task.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    return file


def _encode(overlong):
    from aligner_probe.tasks.encoding import encode

    return encode(learning.task(), learning.Letters(), max_length=32, overlong=overlong)


def _plot(what):
    from matplotlib.figure import Figure

    from aligner_probe.figures.gates import plot_by_layer

    return plot_by_layer(Figure().subplots(), ap.gate_statistics(checkpoint(), resamples=10), what=what)


def _gallery(tmp_path, formats):
    from aligner_probe.figures.catalogue import find
    from aligner_probe.figures.gallery import draw_gallery

    return draw_gallery(find(["fig07"]), ap.Collection(_points()), tmp_path / "out", formats=formats)


def _bootstrap(method):
    from aligner_probe.evaluation.intervals import bootstrap

    return bootstrap(lambda mean: mean, np.ones(3), method=method)


def _match(outcome):
    from aligner_probe.evaluation.judging import match

    return match([["a"]], [["b"]], lambda *_: outcome)


CALLS = {
    "embed_tokens": (
        lambda _: ap.embed_tokens(_points(), method="t-sne"),
        r"did you mean tsne\? .*tsne, umap",
    ),
    "embed_tokens, a third": (lambda _: ap.embed_tokens(_points(), method="pca"), "'pca'; expected one of tsne, umap"),
    "perplexity of UMAP": (lambda _: ap.embed_tokens(_points(), method="umap", perplexity=5), "takes no perplexity"),
    "neighbours of t-SNE": (lambda _: ap.embed_tokens(_points(), n_neighbors=5), "takes no n_neighbors"),
    "bootstrap": (lambda _: _bootstrap("bac"), "did you mean bca.*percentile, bca"),
    "scores": (lambda _: _scores().mean("contents"), "did you mean content.*strict, content"),
    "scores, a field": (lambda _: _scores().mean("weights"), "kind of score 'weights'"),
    "load_task": (lambda t: ap.load_task(_rows(t), flawed="ignore"), "flawed 'ignore'.*refuse, drop"),
    "load_task, prefer": (lambda t: ap.load_task(_rows(t), prefer="safe"), "prefer 'safe'; did you mean safer"),
    "encode": (lambda _: _encode("cut"), "overlong 'cut'.*truncate, drop, refuse"),
    "load_checkpoint": (lambda t: ap.load_checkpoint(t, gate="tan"), "gate 'tan'; did you mean tanh"),
    "plot": (lambda _: _plot("median"), "what 'median'.*std, mean"),
    "gallery": (lambda t: _gallery(t, ("jpg",)), "format 'jpg'.*png, svg, pdf"),
    "recipe": (lambda _: ap.recipe("correct"), "did you mean corrected"),
    "recipe, kind": (lambda _: ap.recipe(kind="dpo"), "kind of task 'dpo'.*sft, preference"),
    "recipe, option": (lambda _: ap.recipe(batchsize=3), "did you mean batch_size"),
    "fit": (
        lambda _: ap.fit(m := learning.model(), ap.LoRA(m, r=1), learning.task(), recipe=learning.quick(), cache="yes"),
        "cache 'yes'.*auto, True, False",
    ),
    "probe, kind": (lambda _: ap.probe_task("microworld", learning.task(), kind="facts"), "kind 'facts'.*memory"),
    "probe, budget": (lambda _: ap.probe_task("microworld", learning.task(), budget="quik"), "did you mean quick"),
    "probe, dtype": (lambda _: ap.probe_task("microworld", learning.task(), dtype="float8"), "dtype float8"),
    "export": (lambda t: ap.export_adapter(t, "lit-lama", t / "x"), "did you mean lit-llama"),
    "published": (lambda _: ap.load_checkpoint("published:alpaca-1"), "did you mean alpaca-1-7b"),
    "panel": (lambda _: ap.load_task("panel:stile_pirate"), "did you mean style_pirate"),
    "scorer": (lambda _: ap.probe_task("microworld", learning.task(), scorer="exakt"), "did you mean exact"),
    "figure": (lambda _: ap.draw("fig7", ap.Collection(_points())), "did you mean fig07"),
    "judge": (lambda _: _match("left"), "outcome 'left'.*first, second, tie"),
}


@pytest.mark.parametrize("what", CALLS)
def test_another_word_is_one_line(tmp_path, what):
    call, expected = CALLS[what]
    with pytest.raises(AlignerProbeError, match=expected) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_name_of_the_package_is_suggested():
    with pytest.raises(AttributeError, match=r"did you mean embed_tokens\?"):
        ap.embed_token  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--method", "alinger"], "did you mean aligner?"),
        (["probe", "run", "--budget", "quik"], "did you mean quick?"),
        (["probe", "rnu"], "did you mean run?"),
    ],
)
def test_commands_name_the_nearest_choice(arguments, expected):
    command = [sys.executable, "-m", f"aligner_probe.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stderr.count("\n") == 1
