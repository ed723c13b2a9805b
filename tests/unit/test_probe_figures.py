"""A report's pictures and page: every arm at its size, none that looks like another, and words that are defined."""

import html
import json
import re
from xml.etree import ElementTree

from matplotlib.figure import Figure

from aligner_probe.arms.catalogue import ARMS, PROBE_ARMS, label_of
from aligner_probe.arms.names import BASE, CONSTANT, PROMPT
from aligner_probe.artifacts import artifact
from aligner_probe.figures.looks import LOOKS, NATURES, OTHERS
from aligner_probe.figures.probe import LABELS, plot_comparison, plot_doses, plot_recovery, write_page
from aligner_probe.figures.words import MEASURES, TERMS, VERDICTS
from aligner_probe.probing.report import comparison


def a_report():
    """All methods, of 10, 20, 30, ... trained numbers."""
    arms = list(PROBE_ARMS)
    families = {}
    for arm, method in ((name, ARMS[name]) for name in PROBE_ARMS):
        if method.group is not None:
            families.setdefault(method.group, {"points": []})["points"].append({"arm": arm})
    scores = {arm: {"value": 0.5, "low": 0.4, "high": 0.6} for arm in [*arms, BASE, PROMPT, CONSTANT]}
    return {
        "measures": {"strict": {"doses": families, "scores": scores}},
        "runs": [{"arm": arm, "n_parameters": 10 * (place + 1)} for place, arm in enumerate(arms)],
        "task": {"name": "t", "n": {"test": 120}},
        "seeds": [[0, 0]],
    }


def test_no_two_arms_look_alike():
    report = a_report()
    axes = plot_doses(report, Figure().subplots())
    handles, labels = axes.get_legend_handles_labels()
    whole = [ARMS[name] for name in PROBE_ARMS if ARMS[name].examples is None]
    alone = [arm for arm in whole if arm.group is None and not arm.shuffled]
    assert {one.label for one in alone} <= set(labels)
    assert {LABELS[BASE], LABELS[PROMPT], LABELS[CONSTANT]} <= set(labels)
    points = [handle[0] for handle in handles if hasattr(handle, "has_yerr")]
    looks = {(line.get_color(), line.get_marker()) for line in points}
    assert len(looks) == len(points) == len(alone) + len(report["measures"]["strict"]["doses"])
    drawn = {x for line in points for x in line.get_xdata()}
    drawable = {arm.name for arm in whole if not arm.shuffled}
    sizes = {run["n_parameters"] for run in report["runs"] if run["arm"] in drawable}
    assert drawn == sizes


def a_measure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def a_quick_report(name="t", verdict="latent"):
    """What a quick probe leaves: Aligner-1 and LoRA, one size each, a sample, and what stands around them."""
    recovered = {"prompt": a_measure(0.1), "aligner-1": a_measure(0.7), "lora-8": a_measure(1.0)}
    scores = {"base": a_measure(0.0), "prompt": a_measure(0.1), "aligner-1": a_measure(0.7), "lora-8": a_measure(1.0)}
    doses = {
        family: {"points": [{"arm": arm}], "fitted": False, "k50_said": "<= 9", "k90_said": "<= 9"}
        for family, arm in (("Aligner", "aligner-1"), ("LoRA", "lora-8"))
    }
    open_ = {"value": None, "low": None, "high": None}
    return {
        "verdict": verdict, "reason": "because", "notes": ["a note"], "limits": ["a limit"], "cannot_decide": [],
        "F": a_measure(0.1), "R_soft": open_, "R1": a_measure(0.7), "B": open_, "delta": open_, "K": open_,
        "parts": {"strict": {"name": verdict, "reason": "because"}},
        "task": {"name": name, "n": {"test": 120}, "independent_test_items": 120, "sha256": {"train": "ab12"}},
        "base": "a base", "budget": "quick", "seeds": [[0, 1], [1, 2]], "thresholds": {"F_cut": 0.48, "R1_cut": 0.19},
        "measures": {
            "strict": {"scores": scores, "gap": a_measure(0.9), "recovered": recovered, "doses": doses},
        },
        "runs": [{"arm": "aligner-1", "n_parameters": 176}, {"arm": "lora-8", "n_parameters": 32768}],
        "scorer": {"is": "exact", "because": "so"}, "ending": {"is": "\n", "because": "so"}, "constant_answer": "x",
        "prompting": {"control": {"reason": "none"}, "chosen": {"strict": "zero-shot"}},
        "failed": {}, "provenance": {"base": "f00d", "versions": {"torch": "2.13", "transformers": "5.0"}},
        "samples": [
            {"prompt": "Q1?", "reference": " yes", "answers": {"base": " no", "aligner-1": " yes", "lora-8": " so"},
             "scores": {"strict": {"base": 0.0, "aligner-1": 1.0, "lora-8": -3.2}}},
        ],
    }  # fmt: skip


def test_recovery_has_every_family_of_a_quick_probe_inside_the_axes():
    report = a_quick_report()
    report["measures"]["strict"]["recovered"]["aligner-1"] = a_measure(-90.0)
    axes = plot_recovery(report, Figure().subplots())
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    assert {"Aligner", "LoRA", "best prompt (F)"} == set(drawn)
    assert drawn["LoRA"][0].get_xydata().tolist() == [[32768, 1.0]]
    assert drawn["LoRA"][0].get_color() == LOOKS["lora-8"].color
    low, high = axes.get_ylim()
    for line in axes.lines:
        assert low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high


def test_an_arm_of_ones_own_has_a_look_of_its_own():
    report = a_quick_report()
    for arm in ("mine", "yours"):
        report["runs"].append({"arm": arm, "n_parameters": 99})
        report["measures"]["strict"]["scores"][arm] = a_measure(0.4)
    axes = plot_doses(report, Figure().subplots())
    drawn = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    assert [(drawn[arm][0].get_color(), drawn[arm][0].get_marker()) for arm in ("mine", "yours")] == list(OTHERS[:2])
    assert not {*OTHERS} & {*LOOKS.values()}


def test_comparison_has_a_panel_a_report_and_one_legend():
    reports = [a_quick_report("one"), a_quick_report("two", "new"), a_quick_report("three")]
    figure = plot_comparison(reports, Figure())
    assert [ax.get_title().split(":")[0] for ax in figure.axes] == ["one", "two", "three"]
    [legend] = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["best prompt (F)", "Aligner", "LoRA"]


def test_page_says_what_its_words_mean_and_marks_right_and_wrong(tmp_path):
    write_page([a_quick_report()], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert f'style="background: {NATURES["latent"].color}">latent</span> {VERDICTS["latent"]}' in page
    for word, what in (*MEASURES, *TERMS):
        assert word in page
        assert what.replace("'", "&#39;") in page
    # A score that is neither 0 nor 1 is neither right nor wrong.
    rows = ElementTree.fromstring(re.search(r"<table>\n<tr><th>asked.*?</table>", page, re.DOTALL)[0]).findall("tr")
    assert [cell.text for cell in rows[0]] == ["asked", "wanted", "base", "Aligner-1", "LoRA r=8"]
    assert [" ".join("".join(cell.itertext()).split()) for cell in rows[1]] == [
        "Q1?",
        "yes",
        "✗ wrong no",
        "✓ right yes",
        "so",
    ]
    assert "torch 2.13, transformers 5.0" in page
    assert "{&#39;" not in page
    assert "[0, 1]" not in page


def test_no_share_is_shown_of_a_gap_that_is_not_there(tmp_path):
    report = a_quick_report("t", "undetermined") | {"K": a_measure(0.8)}
    report["measures"]["strict"]["gap"] = a_measure(0.05)
    write_page([report], tmp_path / "page.html")
    [table] = re.findall(r"<tr><th>measure</th>.*?</table>", (tmp_path / "page.html").read_text(), re.DOTALL)
    values = dict(re.findall(r"<tr><td>(\w+)</td>\s*<td class=\"number\">([^<]*)</td>", table))
    assert values == dict.fromkeys(("F", "R_soft", "R1", "B", "delta"), "no gap") | {"K": "0.80"}
    assert comparison([report, a_quick_report()])[["F", "R1", "K"]].isna().to_numpy().tolist() == [
        [True, True, False],
        [False, False, True],
    ]
    axes = plot_recovery(report, Figure().subplots())
    assert axes.get_legend_handles_labels() == ([], [])
    assert "not\nclearly above the floor" in axes.texts[0].get_text()


def test_page_shows_the_prompt_that_won_in_full(tmp_path):
    report = a_quick_report()
    shown = "answer <b>like</b> a pirate.\nQ: who?\nA:"
    ways = {"zero-shot": {"strict": 0.0}, "description 1": {"strict": 0.875}}
    report["prompting"] |= {
        "chosen": {"strict": "description 1", "content": "zero-shot"}, "validation": ways, "example": shown,
        "descriptions": ["answer <b>like</b> a pirate."], "left_out": ["4-shot: too long"],
        "lost_examples": {"items": 140, "by_prompt": {"8-shot": {"1": 5, "2": 1}}},
    }  # fmt: skip
    write_page([report], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    [part] = re.findall(r"<h2>The best prompt</h2>(.*?)<h2>", page, re.DOTALL)
    text = " ".join(html.unescape(re.sub(r"<[^>]*>", " ", part)).split())
    assert text.startswith(
        "Chosen: description 1 , of 2 ways to ask the base model; strict score on the validation items 0.88. "
        "By the content score: zero-shot."
    )
    assert html.unescape(re.findall(r'<pre class="prompt">(.*?)</pre>', part, re.DOTALL)[0]) == shown
    assert "of 140 validation and test items: 8-shot: 1 example for 5 items, 2 examples for 1 item" in text
    assert "Left out: 4-shot: too long" in text
    rows = re.findall(r"<tr><td>(.*?)</td><td class=\"number\">(.*?)</td></tr>", part)
    assert rows == [("description 1", "0.88"), ("zero-shot", "0.00")]
    # Long words break on a narrow screen, and lines wrap.
    assert "overflow-wrap: anywhere" in page
    assert "pre { white-space: pre-wrap" in page


def test_page_has_the_frontier_with_k_of_every_arm(tmp_path):
    frontier = json.loads((artifact("frontier") / "style_pirate.json").read_text())
    write_page([a_quick_report() | {"frontier": frontier}], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Knowledge kept" in page
    for arm, most in frontier["K"]["0.95"].items():
        name = "prompts" if arm == "prompt" else label_of(arm)
        assert f'<td>{name}</td><td class="number">{most["said"]}</td>' in page
    write_page([a_quick_report() | {"frontier": None}], tmp_path / "without.html")
    assert "Knowledge kept" not in (tmp_path / "without.html").read_text()


def test_page_has_bits_and_examples_where_they_were_measured(tmp_path):
    report = a_quick_report()
    write_page([report], tmp_path / "page.html")
    assert "Bits and examples" not in (tmp_path / "page.html").read_text()
    for excess in (100.0, 140.0):
        bits = {"an_example": excess / 80, "excess": excess, "n_examples": 80}
        report["runs"].append({"arm": "lora-8", "n_parameters": 32768, "bits": bits})
    report["measures"]["strict"]["examples"] = {"k50_said": "16 to 64"}
    write_page([report], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert re.search(r"<td>LoRA r=8</td><td[^>]*>1\.50</td><td[^>]*>120</td><td[^>]*>80</td>", page)
    assert "recovers half of the gap: 16 to 64." in page


def test_page_of_an_older_report_marks_nothing(tmp_path):
    report = a_quick_report()
    del report["samples"][0]["scores"]
    write_page([report, a_quick_report("other")], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count('class="right"') == 1
    assert "2 tasks, compared" in page
