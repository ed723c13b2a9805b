"""A picture that depends on the processor stays as it is as long as what it is drawn from does."""

import itertools
import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

from aligner_probe.figures import gallery
from aligner_probe.figures.catalogue import find
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Drawing, Input


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws a figure from an input of this hash, with other values each time."""
    values = itertools.count()

    def draw(name, sha256):
        def drawing(entry, collection):
            frame = pd.DataFrame({"x": [next(values)]})
            return Drawing(Figure(), frame, "a caption", (Input("an input", "a file", sha256),))

        monkeypatch.setattr(gallery, "_drawn", drawing)
        result = gallery.draw_gallery(find([name]), Collection([]), tmp_path / "out", show_progress=False)
        [record] = json.loads((tmp_path / "out" / "manifest.json").read_text())["figures"]
        [csv] = (tmp_path / "out").glob("*.csv")
        assert record["sha256"][csv.name] == gallery.sha256(csv)
        return int(csv.read_text().split()[1]), result.kept

    draw.folder = tmp_path / "out"
    return draw


def test_a_varying_picture_stays_until_its_inputs_change(drawn):
    assert drawn("extra02", "one") == (0, ())
    assert drawn("extra02", "one") == (0, ("extra02",))
    assert drawn("extra02", "two") == (2, ())
    [picture] = drawn.folder.glob("*.png")
    picture.write_bytes(b"changed by hand")
    assert drawn("extra02", "two") == (3, ())
    picture.unlink()
    assert drawn("extra02", "two") == (4, ())


def test_every_other_picture_is_drawn_anew(drawn):
    assert [drawn("fig07", "one"), drawn("fig07", "one")] == [(0, ()), (1, ())]
