"""Figures 6b/15 and 12 to 14: prefix tokens on a plane, and Figure 12's question put to the distances themselves."""

from collections.abc import Collection as Collection_
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from aligner_probe.analysis.centre import CentreTest, centre_test
from aligner_probe.analysis.embeddings import TokenMap, embed_tokens
from aligner_probe.checkpoints.prefix import PrefixCheckpoint
from aligner_probe.evaluation.intervals import proportion_interval
from aligner_probe.figures.claims import below
from aligner_probe.figures.collection import Collection, Group
from aligner_probe.figures.drawing import Comparison, Drawing, MissingInputs, legend_below, panels
from aligner_probe.figures.looks import BLACK, GREY, Look, look_of, looks_of

Method = Literal["tsne", "umap"]
#: The paper's pairs: the one token against ten on Alpaca, against a hundred on MetaMath.
PAPER_PAIRS = {"Alpaca": 10, "MetaMath": 100}
MAX_COLUMNS = 4
#: A centre has fewer than this share of the other tokens nearer to their centroid.
CENTRAL = 0.1
#: From orange to dark brown, by layer; the palest shades of matplotlib's map, which vanish on white, are left out.
BY_LAYER = LinearSegmentedColormap.from_list("by layer", colormaps["YlOrBr"](np.linspace(0.4, 1.0, 256)))
#: The names of the two methods of mapping, as papers write them.
MAP_METHODS = {"tsne": "t-SNE", "umap": "UMAP"}


def plot_map(
    ax: Axes,
    token_map: TokenMap,
    *,
    looks: dict[str, Look],
    labels: dict[str, str] | None = None,
    hollow: Collection_[str] = (),
) -> Axes:
    """Draw tokens on the plane, one colour and marker for each checkpoint; `looks` and `labels` are by its label.

    A checkpoint of one token is drawn large, with a black edge and on top. Checkpoints in `hollow` are drawn as larger
    outlines, so that they do not hide tokens at the same coordinates.
    """
    frame = token_map.to_frame()
    for name, rows in frame.groupby("checkpoint", sort=False):
        single, outlined = len(rows) == 1, name in hollow
        look = looks[str(name)]
        edge = look.color if outlined else BLACK if single else "white"
        ax.scatter(
            rows["x"],
            rows["y"],
            s=(130 if outlined else 90) if single else (34 if outlined else 18),
            facecolor="none" if outlined else look.color,
            marker=look.marker,
            edgecolor=edge,
            linewidth=1.6 if single and outlined else 0.9 if single or outlined else 0.4,
            alpha=1 if single else 0.85,
            zorder=3 if single else 2,
            label=f"{(labels or {}).get(str(name), name)} (n = {len(rows)})",
        )
    return _finish_map(ax, token_map)


def _finish_map(ax: Axes, token_map: TokenMap) -> Axes:
    """Name the method and say how well the map keeps neighbours, instead of coordinates, which mean nothing."""
    trust = token_map.trustworthiness
    settings = ", ".join(f"{key} {value:g}" for key, value in token_map.settings.items())
    ax.set_xlabel(
        f"{MAP_METHODS[token_map.method]}: {settings}, seed {token_map.seed}, "
        f"trustworthiness {'–' if trust is None else f'{trust:.2f}'}",
        fontsize=8,
    )
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    return ax


def plot_centre_test(ax: Axes, result: CentreTest, *, one: Look, many: Look) -> Axes:
    """Draw distances to the centroid of the many tokens, a row each.

    Rows: random directions, each of the many (leave-one-out), and the one token; then, below the line, the last two
    again without the token that shares the one's random start. `one` and `many` are the looks of the two checkpoints.
    """
    rows = [
        ("random", result.random, Look(GREY, "o")),
        ("the many", result.leave_one_out, many),
        ("the one", np.array([result.matched]), one),
        (f"the many, no {result.twin}", result.leave_one_out_without_twin, many),
        (f"the one, no {result.twin}", np.array([result.distance_without_twin]), one),
    ]
    spread = np.random.default_rng(0)
    for y, (_, values, look) in enumerate(rows):
        single = len(values) == 1
        jitter = 0 if single else spread.uniform(-0.22, 0.22, len(values))
        ax.scatter(
            values,
            np.full(len(values), float(y)) + jitter,
            s=80 if single else 10,
            color=look.color,
            marker=look.marker,
            edgecolor=BLACK if single else "white",
            linewidth=0.9 if single else 0.3,
            alpha=1 if single else 0.7,
            zorder=3 if single else 2,
        )
    ax.axhline(2.5, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(rows)), [f"{name} (n = {len(values)})" for name, values, _ in rows])
    ax.invert_yaxis()
    ax.set_xlabel("distance to the centroid of the many", fontsize=8)
    nearest = "twin" if result.has_twin else "most alike"
    ax.set_title(f"{nearest}: token {result.twin}, cosine {result.twin_cosine:.3f}")
    return ax


def one_among_many(collection: Collection) -> Drawing:
    """Figure 12: Aligner-1's token among those of a larger Aligner, and whether it is their centre."""
    return _one_among_many(collection, "tsne", with_test=True)


def one_among_many_umap(collection: Collection) -> Drawing:
    """The same by UMAP."""
    return _one_among_many(collection, "umap", with_test=False)


def _one_among_many(collection: Collection, method: Method, *, with_test: bool) -> Drawing:
    pairs = [
        (group, one, many)
        for group in collection.groups
        if (one := group.aligner(1)) is not None
        for many in group.aligners
        if many.n_tokens >= 3
    ]
    missing = _missing_pairs(collection)
    if not pairs:
        raise MissingInputs(missing or ["Aligner-1 and a larger Aligner trained on the same data"])
    maps = [embed_tokens([one, many], method=method) for _, one, many in pairs]
    tests = [centre_test(one, many) for _, one, many in pairs] if with_test else []
    columns = next((c for c in (MAX_COLUMNS, MAX_COLUMNS - 1) if len(pairs) % c == 0), min(len(pairs), MAX_COLUMNS))
    figure, axes = panels((2 if with_test else 1) * len(pairs), columns=columns)
    map_axes, test_axes = _in_bands(axes, len(pairs), columns) if with_test else (axes, [])
    for ax, (group, one, many), token_map in zip(map_axes, pairs, maps, strict=True):
        plot_map(
            ax,
            token_map,
            looks={c.label: look_of(c, group.checkpoints) for c in (one, many)},
            labels={c.label: group.legend(c) for c in (one, many)},
        )
        legend_below(ax, columns=2, offset=0.08)
        ax.set_title(group.title)
    for ax, (group, one, many), result in zip(test_axes, pairs if tests else [], tests, strict=True):
        plot_centre_test(ax, result, one=look_of(one, group.checkpoints), many=look_of(many, group.checkpoints))
    caption = _caption(maps)
    if tests:
        caption += (
            " Below: distances in the space of the tokens itself (the many: the larger Aligner's tokens; the one: "
            "Aligner-1's). Every centroid leaves out one token, also for the one (matched). Below the dotted line, "
            "the named token of the many is left out altogether. " + " ".join(result.explanation for result in tests)
        )
    return Drawing(
        figure,
        _frames(maps, tests),
        caption,
        tuple(dict.fromkeys(c for _, one, many in pairs for c in (one, many))),
        settings=_settings(maps),
        missing=tuple(missing),
        comparisons=tuple(_compare_centre(result) for result in tests),
    )


def _compare_centre(result: CentreTest) -> Comparison:
    """The claim is judged without the twin: how many of the other tokens lie nearer to the centroid than the one."""
    others = result.leave_one_out_without_twin
    nearer = proportion_interval(int((others < result.distance_without_twin).sum()), len(others))
    claim = below(nearer, CENTRAL, "the one token is the centre of the others")
    return Comparison(
        f"{result.label_one} among {result.label_many}",
        "the one token is the centre of the others",
        f"distance {result.matched:.1f}; the others {result.leave_one_out.mean():.1f}; without its twin, "
        f"token {result.twin} (cosine {result.twin_cosine:.3f}): {result.distance_without_twin:.1f} against "
        f"{others.mean():.1f}",
        claim.sentence,
        f"share of the others nearer: [{nearer.low:.3f}, {nearer.high:.3f}]",
        claim.verdict,
    )


def _in_bands(axes: Sequence[Axes], n: int, columns: int) -> tuple[list[Axes], list[Axes]]:
    """Rows of maps with their tests right below: which panels are whose."""
    above, below, remaining = [], [], list(axes)
    for first in range(0, n, columns):
        width = min(columns, n - first)
        above += remaining[:width]
        below += remaining[width : 2 * width]
        remaining = remaining[2 * width :]
    return above, below


def one_and_adapter(collection: Collection) -> Drawing:
    """Figure 13: Aligner-1's token among LLaMA-Adapter's of all layers, coloured by layer."""
    return _with_adapter(collection, 1)


def ten_and_adapter(collection: Collection) -> Drawing:
    """Figure 14: Aligner-10's tokens among LLaMA-Adapter's."""
    return _with_adapter(collection, 10)


def _with_adapter(collection: Collection, n_tokens: int) -> Drawing:
    pairs = [
        (group, aligner, adapter)
        for group in collection.groups
        if (aligner := group.aligner(n_tokens)) is not None and (adapter := group.llama_adapter) is not None
    ]
    missing = [*collection.missing("aligner", n_tokens), *collection.missing("llama_adapter")]
    if not pairs:
        raise MissingInputs(missing or [collection.together(f"Aligner-{n_tokens}", "LLaMA-Adapter")])
    maps = [embed_tokens([aligner, adapter]) for _, aligner, adapter in pairs]
    figure, axes = panels(len(pairs))
    for ax, (group, aligner, adapter), token_map in zip(axes, pairs, maps, strict=True):
        frame = token_map.to_frame()
        theirs = frame[frame["method"] == "llama_adapter"]
        look = look_of(adapter, group.checkpoints)
        points = ax.scatter(theirs["x"], theirs["y"], c=theirs["layer"], cmap=BY_LAYER, s=20, marker=look.marker)
        label = f"layer of {group.legend(adapter)} (n = {len(theirs)})"
        figure.colorbar(points, ax=ax, label=label, shrink=0.8).locator = MaxNLocator(integer=True)
        ours = frame[frame["method"] == "aligner"]
        ax.scatter(
            ours["x"],
            ours["y"],
            s=90 if n_tokens == 1 else 32,
            color=look_of(aligner, group.checkpoints).color,
            marker=look_of(aligner, group.checkpoints).marker,
            edgecolor=BLACK,
            linewidth=0.9 if n_tokens == 1 else 0.6,
            label=f"{group.legend(aligner)} (n = {len(ours)})",
        )
        ax.set_title(group.title)
        _finish_map(ax, token_map)
        legend_below(ax, columns=2, offset=0.08)
    return Drawing(
        figure,
        _frames(maps),
        _caption(maps),
        tuple(dict.fromkeys(c for _, *both in pairs for c in both)),
        settings=_settings(maps),
        missing=tuple(missing),
        comparisons=tuple(_compare_nearest(aligner, adapter) for _, aligner, adapter in pairs),
    )


def four_models(collection: Collection) -> Drawing:
    """Figures 6b and 15: Aligner-1 and LLaMA-Adapter on two data sets, on one plane."""
    missing = [*collection.missing("aligner", 1), *collection.missing("llama_adapter")]
    by_base: dict[tuple[str, int], list[Group]] = {}
    for group in collection.groups:
        by_base.setdefault((group.base_model, group.checkpoints[0].d_model), []).append(group)
    shown: list[tuple[str, list[PrefixCheckpoint]]] = []
    for (base, _), groups in by_base.items():
        both = [[group.aligner(1), group.llama_adapter] for group in groups[:2]]
        members = [c for pair in both for c in pair if c is not None]
        if any(c.method == "llama_adapter" for c in members) and any(c.method == "aligner" for c in members):
            shown.append((base, members))
    if not shown:
        raise MissingInputs(missing or [collection.together("Aligner-1", "LLaMA-Adapter")])
    maps = [embed_tokens(members) for _, members in shown]
    figure, axes = panels(len(shown))
    for ax, (base, members), token_map in zip(axes, shown, maps, strict=True):
        data_sets = list(dict.fromkeys(c.data_set for c in members))
        plot_map(
            ax,
            token_map,
            looks={c.label: look for c, look in zip(members, looks_of(members), strict=True)},
            labels={c.label: f"{c.method_label} · {c.data_set}" for c in members},
            hollow={c.label for c in members if c.data_set != data_sets[0]},
        )
        legend_below(ax, columns=1 if len(shown) > 1 else 2, offset=0.08)
        ax.set_title(base)
    return Drawing(
        figure,
        _frames(maps),
        _caption(maps),
        tuple(c for _, members in shown for c in members),
        settings=_settings(maps),
        missing=tuple(missing),
        comparisons=tuple(comparison for _, members in shown for comparison in _compare_twins(members)),
    )


def _compare_nearest(aligner: PrefixCheckpoint, adapter: PrefixCheckpoint) -> Comparison:
    """Distances to the nearest token of LLaMA-Adapter: of Aligner's, and of LLaMA-Adapter's own."""
    ours, theirs = aligner.tokens.double(), adapter.tokens.double()
    to_theirs = torch.cdist(ours, theirs).min(dim=1).values
    among = torch.cdist(theirs, theirs).fill_diagonal_(float("inf")).min(dim=1).values
    low, high = torch.quantile(among, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Comparison(
        f"{aligner.label} among {adapter.method_label}: median distance to its nearest token",
        None,
        f"{float(to_theirs.median()):.2f}; LLaMA-Adapter's own {float(among.median()):.2f}",
        "The paper shows the map and prints no number.",
        f"95 % of LLaMA-Adapter's own: {low:.2f} to {high:.2f}",
    )


def _compare_twins(members: Sequence[PrefixCheckpoint]) -> list[Comparison]:
    """How many tokens have the same token of the other data set's run nearest: a trace of the shared start."""
    rows = []
    for a in members:
        for b in (m for m in members if m.method == a.method and m.prefix.shape == a.prefix.shape and m is not a):
            if a.data_set < b.data_set:
                ours, theirs = a.tokens.double(), b.tokens.double()
                others = torch.cat([theirs, *(m.tokens.double() for m in members if m is not a and m is not b)])
                same = int((torch.cdist(ours, others).argmin(dim=1) == torch.arange(len(ours))).sum())
                share = proportion_interval(same, len(ours))
                rows.append(
                    Comparison(
                        f"{a.label}: tokens whose nearest is the same token on {b.data_set}",
                        None,
                        f"{same} of {len(ours)}",
                        "The paper shows the map and prints no number; runs of one seed share their start.",
                        f"[{share.low:.3f}, {share.high:.3f}]",
                    )
                )
    return rows


def _missing_pairs(collection: Collection) -> list[str]:
    """The paper's panels that cannot be drawn."""
    lacking = collection.missing("aligner", 1)
    for data_set in collection.expected_data_sets:
        n_tokens = PAPER_PAIRS.get(data_set)
        larger = [c for g in collection.groups if g.data_set == data_set for c in g.aligners if c.n_tokens > 1]
        if n_tokens is not None and not any(c.n_tokens == n_tokens for c in larger):
            why = " (the file published under that name is JSON text)" if data_set == "Alpaca" else ""
            lacking.append(f"Aligner-{n_tokens} trained on {data_set}{why}")
        elif n_tokens is None and not larger:
            lacking.append(f"an Aligner with more tokens than one trained on {data_set}")
    return lacking


def _frames(maps: Sequence[TokenMap], tests: Sequence[CentreTest] = ()) -> pd.DataFrame:
    frames = [token_map.to_frame().assign(panel=i, drawn="map") for i, token_map in enumerate(maps)]
    # The map's rows of a panel name its checkpoints.
    frames += [
        result.to_frame().drop(columns=["one", "many"]).assign(panel=i, drawn="distance")
        for i, result in enumerate(tests)
    ]
    return pd.concat(frames, ignore_index=True)


def _settings(maps: Sequence[TokenMap]) -> dict:
    return {
        "method": maps[0].method,
        "maps": [{"n": m.n, "seed": m.seed, **m.settings, "trustworthiness": m.trustworthiness} for m in maps],
    }


def _caption(maps: Sequence[TokenMap]) -> str:
    """What each map was made with, then what none of them can show, each caveat once."""
    caveats = dict.fromkeys(caveat for token_map in maps for caveat in token_map.caveats)
    sentences = " ".join(f"{caveat[0].upper()}{caveat[1:]}." for caveat in caveats)
    return f"{'; '.join(token_map.summary for token_map in maps)}. {sentences}"
