"""Tasks of the known-answer panel, by name."""

import pytest


def test_a_panel_task_is_read_by_its_name():
    from aligner_probe.tasks.loading import load_splits
    from aligner_probe.tasks.panel import PANEL

    train, test = load_splits("panel:style_pirate")
    assert train.source == str(PANEL / "style_pirate" / "train.jsonl")
    assert {example.group for example in train.examples}.isdisjoint(example.group for example in test.examples)
    assert all(example.completion == f" ahoy, {example.content}, matey." for example in train.examples)


def test_another_name_is_refused_with_those_there_are():
    from aligner_probe.errors import AlignerProbeError
    from aligner_probe.tasks.loading import load_task

    with pytest.raises(AlignerProbeError, match=r"no task .style_pirat.; expected one of .*style_pirate"):
        load_task("panel:style_pirat")
