"""Results in a notebook: short, and nothing of what strangers wrote is taken for HTML."""

import html
from html.parser import HTMLParser

import micro
import pytest
from builders import checkpoint
from hypothesis import given
from hypothesis import strategies as st
from learning import model, quick, task

import aligner_probe as ap
from aligner_probe.html import MOST_CHARACTERS, MOST_ROWS, table, text_of
from aligner_probe.tasks import Example, Preference, Task

EVIL = "<script>alert(\"1\")</script><img src=x onerror='a'>&amp;\n\u202e" + "long " * 5000


class Reader(HTMLParser):
    """Tags, and texts by cell."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts = set(), set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts.append(data)


def read(text):
    found = Reader(text)
    assert found.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
    assert found.attributes <= {"style", "colspan"}
    return found.texts


@given(st.dictionaries(st.text(), st.text()), st.text())
def test_every_text_stands_there_to_the_letter(rows, title):
    said = read(table(title, rows))
    expected = [text_of(title)]
    for name, value in list(rows.items())[:MOST_ROWS]:
        expected += [text_of(name), text_of(value)]
    if len(rows) > MOST_ROWS:
        expected += ["…", f"{len(rows) - MOST_ROWS} more"]
    shown = [text.encode("utf-8", "replace").decode() for text in expected if text]
    # What the parser reads in pieces is one text.
    assert "".join(said) == html.unescape("".join(html.escape(text) for text in shown))
    assert all(len(text) <= MOST_CHARACTERS for text in expected)


def test_what_is_no_unicode_is_shown_all_the_same():
    for text in ("\ud800", "a\x00b\x1b[31m", "\u202egnp.exe"):
        shown = table(text, {text: text})
        shown.encode("utf-8")
        assert not {"\x00", "\x1b", "\u202e"} & set(shown)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """One of everything that the front door returns, made of hostile names."""
    folder = tmp_path_factory.mktemp("html")
    named = {"metadata": {"data_set": EVIL, "base_model": EVIL, "run": EVIL}, "source": EVIL}
    a, b = checkpoint(seed=0, n_tokens=4, **named), checkpoint(seed=1, n_tokens=4, **named)
    one = checkpoint(seed=2, **named)
    base = model()
    adapter = ap.LoRA(base, 2)
    rows = tuple(Example(f"{i} {EVIL}", f"{i} {EVIL}") for i in range(3))
    evil = Task(EVIL, "sft", rows, source=EVIL)
    pairs = Task(EVIL, "preference", (Preference(EVIL, f"1{EVIL}", EVIL),))
    run = ap.fit(base, adapter, task(), recipe=quick(steps=2), show_progress=False)
    micro_base = ap.load_model(micro.base())
    return {
        "PairForensics": ap.compare_checkpoints(a, b),
        "Equality": ap.compare_numbers(a, b),
        "PartEquality": ap.compare_numbers(a, b).prefix,
        "GateStatistics": ap.gate_statistics(a, resamples=20),
        "CentreTest": ap.centre_test(one, a),
        "TokenMap": ap.embed_tokens([a, b]),
        "PrefixCheckpoint": a,
        "Collection": ap.Collection([a, b]),
        "Group": ap.Collection([a, b]).groups[0],
        "Drawing": ap.draw("fig07", [checkpoint()]),
        "Task": evil,
        "Task of pairs": pairs,
        "Guess": ap.guess_scorer(evil),
        "Run": run,
        "LoRA": adapter,
        "Aligner": ap.Aligner(base, 2, 1),
        "FullFineTune": ap.FullFineTune(base),
        "Export": ap.export_adapter(ap.Aligner(base, 2, 1), "native", folder / "a"),
        "LoRACheckpoint": ap.load_lora(ap.export_adapter(adapter, "peft", folder / "b").path),
        "Scores": ap.score_task(micro_base, task(3), "exact", max_new_tokens=2),
        "ParameterTable": ap.parameter_table(),
    }


def test_results_are_short_and_escaped(results):
    for name, result in results.items():
        shown = result._repr_html_()
        said = "".join(read(shown))
        assert len(shown) < 8000, name
        assert len(said) > 20, name
        line = repr(result)
        assert "\n" not in line, name
        assert len(line) < 1000, name
        assert "<script" not in shown
        shown.encode("utf-8")
    assert "&lt;script&gt;" in results["Task"]._repr_html_()
    assert "&lt;script&gt;" in results["PrefixCheckpoint"]._repr_html_()


def test_tables_say_what_was_found(results):
    run = results["Run"]
    assert f"{run.adapter.n_parameters:,}" in run._repr_html_()
    equality = results["Equality"]
    assert f"{equality.n_equal:,} of {equality.prefix.n:,}" in equality._repr_html_()
    assert results["GateStatistics"].spearman.__str__() in results["GateStatistics"]._repr_html_()
    assert "n_tokens=2" in repr(results["Aligner"])
    scores = results["Scores"]
    assert f"{scores.mean('strict'):.4g}" in scores._repr_html_()


def test_a_probe_s_result_and_verdict():
    from aligner_probe.probing.gathering import Gathered
    from aligner_probe.probing.result import ProbeResult
    from aligner_probe.probing.splitting import Parts
    from aligner_probe.probing.verdicts.verdict import Verdict

    verdict = Verdict("form", f"because {EVIL}", {}, (EVIL, EVIL))
    gathered = object.__new__(Gathered)
    for shown in (verdict, ProbeResult(verdict, gathered, {}, object.__new__(Parts))):
        assert "form" in read(shown._repr_html_())
        assert len(repr(shown)) < 1000
