"""The probe's plot: every arm at its size, none that looks like another."""

from matplotlib.figure import Figure

from aligner_probe.arms.catalogue import ARMS, PROBE_ARMS
from aligner_probe.arms.names import BASE, CONSTANT, PROMPT
from aligner_probe.figures.probe import LABELS, plot_doses


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
    alone = [ARMS[name] for name in PROBE_ARMS if ARMS[name].group is None and not ARMS[name].shuffled]
    assert {one.label for one in alone} <= set(labels)
    assert {LABELS[BASE], LABELS[PROMPT], LABELS[CONSTANT]} <= set(labels)
    points = [handle[0] for handle in handles if hasattr(handle, "has_yerr")]
    looks = {(line.get_color(), line.get_marker()) for line in points}
    assert len(looks) == len(points) == len(alone) + len(report["measures"]["strict"]["doses"])
    drawn = {x for line in points for x in line.get_xdata()}
    sizes = {run["n_parameters"] for run in report["runs"] if not run["arm"].endswith("-shuffled")}
    assert drawn == sizes
