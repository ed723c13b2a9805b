"""Table 1: trained parameters of each method and adapters per GPU, the paper's slips, and counts of runs."""

from collections.abc import Collection as Collection_

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_probe.adapters.adapter import start_layer_of
from aligner_probe.adapters.prefix import Aligner
from aligner_probe.arms.catalogue import ARMS
from aligner_probe.evaluation.intervals import Interval
from aligner_probe.figures.claims import above
from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing
from aligner_probe.figures.experiments import METHODS, Experiments
from aligner_probe.sizes import (
    LLAMA2_7B,
    ParameterTable,
    adapters_per_gpu,
    adapters_per_gpu_as_published,
    aligner_parameters,
    llama_adapter_parameters,
    lora_parameters,
    parameter_table,
)

GPU_BYTES = 24e9
#: "Orders of magnitude".
ORDERS = 100
PREFIX_TOKENS = {"Aligner-1": 1, "Aligner-10": 10, "Aligner-300": 300, "LLaMA-Adapter-10": 300}
#: As printed, where that was copied from the paper; its row of adapters counts prefix parameters only.
PAPER_COUNTS = {"Aligner-10": "4.19K"}
PAPER_ADAPTERS = {"Aligner-1": "1.25M", "Aligner-10": "125K", "LLaMA-Adapter-10": "4.17K"}


def plot_table(ax: Axes, frame: pd.DataFrame, *, emphasised: Collection_[int] = ()) -> Axes:
    """A data frame as a table: first column to the left, numbers to the right; some rows may be set off."""
    ax.axis("off")
    table = ax.table(cellText=frame.to_numpy().tolist(), colLabels=list(frame.columns), loc="center", cellLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.auto_set_column_width(list(range(frame.shape[1])))
    table.scale(1, 1.9)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor("#D0D0D0")
        cell.set_linewidth(0.6)
        if row == 0:
            cell.set_text_props(fontweight="bold", linespacing=1.1)
            cell.set_height(cell.get_height() * 1.6)
        if row - 1 in emphasised:
            cell.set_facecolor("#E8F1F8")
            cell.set_text_props(fontweight="bold")
        if column == 0:
            cell.set_text_props(ha="left")
    return ax


def battle_columns(frame: pd.DataFrame) -> dict[str, object]:
    """The first columns of Table 2: the two methods, the base model and the judge, and the counts."""
    counts = zip(frame["wins"], frame["losses"], frame["ties"], strict=True)
    return {
        "Aligner": frame["aligner"],
        "against": frame["rival"],
        "base, judge": frame["judged"],
        "win / loss / tie": [f"{wins} / {losses} / {ties}" for wins, losses, ties in counts],
    }


def parameter_counts(collection: Collection) -> Drawing:
    """Table 1. Needs no weights; checkpoints at hand are counted and set beside the formula."""
    table = parameter_table(LLAMA2_7B, GPU_BYTES)
    frame = table.to_frame()
    frame["adapters_by_papers_rule"] = [
        adapters_per_gpu_as_published(PREFIX_TOKENS[name]) if name in PREFIX_TOKENS else pd.NA
        for name in frame["method"]
    ]
    frame["paper_prints_n_parameters"] = [PAPER_COUNTS.get(name, np.nan) for name in frame["method"]]
    frame["paper_prints_adapters"] = [PAPER_ADAPTERS.get(name, np.nan) for name in frame["method"]]
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "trained\nparameters": [f"{n:,}" for n in frame["n_parameters"]],
            "fewer than\nLoRA by": [f"{ratio:,.1f} x" for ratio in frame["times_fewer_than_lora"]],
            "adapters on\n24 GB": [f"{n:,}" for n in frame["adapters_per_gpu"]],
            "by the\npaper's rule": ["–" if pd.isna(n) else f"{n:,}" for n in frame["adapters_by_papers_rule"]],
            "paper prints\nparameters": frame["paper_prints_n_parameters"].fillna("–"),
            "paper prints\nadapters": frame["paper_prints_adapters"].fillna("–"),
        }
    )
    small = counts_on(collection.experiments) if collection.has_experiments else None
    figure = Figure(figsize=(8.6, 3.4 if small is None else 7.8), layout="constrained")
    if small is None:
        plot_table(figure.subplots(), shown)
    else:
        upper, lower = figure.subplots(2, 1, height_ratios=(len(shown) + 1.6, len(small) + 1.6))
        plot_table(upper, shown).set_title(LLAMA2_7B.name, pad=8)
        name = collection.experiments.base.name
        article = "" if collection.experiments.is_real else "the "
        plot_table(lower, _shown_counts(small)).set_title(f"{article}{name}, counted", pad=8)
        frame = pd.concat([frame.assign(base=LLAMA2_7B.name), small], ignore_index=True)
    one = parameter_table(LLAMA2_7B).rows[0]["n_parameters"]
    ten_gb = adapters_per_gpu(10e9 + 2 * LLAMA2_7B.n_parameters, one, LLAMA2_7B)
    free = (GPU_BYTES - 2 * LLAMA2_7B.n_parameters) / 1e9
    counted = [
        Comparison(
            f"{c.label}: parameters in the file",
            None,
            f"{c.n_parameters:,}",
            "as the formula says"
            if c.base_model == LLAMA2_7B.name and c.n_parameters in set(frame["n_parameters"])
            else "counted",
        )
        for c in collection.checkpoints
    ]
    return Drawing(
        figure,
        frame,
        f"Start layer 2, so 30 of 32 layers are adapted. Adapters on 24 GB: (24e9 - 2 x base) / (2 x parameters), "
        f"{free:.1f} GB being free beside the base in 16 bits. The paper's rule, 10 GB / (2 x tokens x 4,000), leaves "
        f'gates out: with them 10 GB hold {ten_gb:,} Aligner-1, so that "more than a million" hangs on rounding. Its '
        "4.19K for Aligner-10 is 41.9K (41,920). A dash: not in the paper, or not copied from it.",
        collection.checkpoints,
        settings={"base": LLAMA2_7B.name, "gpu_bytes": GPU_BYTES, "start_layer": 2},
        comparisons=(
            Comparison("Aligner-10, parameters", "4.19K", "41,920", "slip in the paper: 41.9K"),
            *(
                Comparison(
                    f"{row['method']}, adapters on 24 GB",
                    PAPER_ADAPTERS.get(row["method"]),
                    f"{row['adapters_per_gpu']:,}",
                    "the paper's counts prefix parameters only, without gates"
                    if row["method"] in PAPER_ADAPTERS
                    else "",
                )
                for row in table.rows
            ),
            *counted,
            *([] if small is None else _compare_ratio(small, table)),
        ),
    )


def counts_on(experiments: Experiments) -> pd.DataFrame:
    """What the runs of a reproduction trained, counted, beside the paper's formulas for a base of its sizes.

    The formula of LoRA holds where queries and values have one size, and so not with grouped queries.
    """
    base = experiments.base
    runs = {run.method: run for run in experiments.results.runs if run.method in METHODS and run.arm == "main"}
    counts = {method: runs[method].n_parameters for method in METHODS if method in runs}
    start, aligners = start_layer_of(base.n_layers), [m for m in counts if ARMS[m].method == Aligner.method]
    formulas = {m: aligner_parameters(base, ARMS[m].n_tokens or 0, start) for m in aligners}
    formulas["llama-adapter-10"] = llama_adapter_parameters(base, start_layer=start)
    if not experiments.is_real:
        formulas["lora-8"] = lora_parameters(base)
    lora = counts.get("lora-8", lora_parameters(base))
    return pd.DataFrame(
        [
            {
                "method": ARMS[method].label,
                "n_parameters": n,
                "times_fewer_than_lora": lora / n,
                "adapters_per_gpu": adapters_per_gpu(GPU_BYTES, n, base),
                "by_formula": formulas.get(method, pd.NA),
                "share_of_base": n / base.n_parameters,
                "base": base.name,
            }
            for method, n in counts.items()
        ]
    )


def _shown_counts(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "method": frame["method"],
            "trained\nparameters": [f"{n:,}" for n in frame["n_parameters"]],
            "by the\nformula": ["–" if pd.isna(n) else f"{n:,}" for n in frame["by_formula"]],
            "fewer than\nLoRA by": [f"{ratio:,.1f} x" for ratio in frame["times_fewer_than_lora"]],
            "share of\nthe base": [f"{share:.3%}" for share in frame["share_of_base"]],
            "adapters on\n24 GB": [f"{n:,}" for n in frame["adapters_per_gpu"]],
        }
    )


def _compare_ratio(small: pd.DataFrame, table: ParameterTable) -> list[Comparison]:
    """Counts are exact, so there is no interval."""
    paper = next(row for row in table.rows if row["method"] == "Aligner-1")
    comparisons = []
    ones = small[small["method"] == "Aligner-1"]
    for base, times in zip(ones["base"], ones["times_fewer_than_lora"], strict=True):
        ratio = float(times)
        exact = Interval(ratio, ratio, ratio)
        claim = above(exact, ORDERS, "Aligner-1 is smaller than LoRA by orders of magnitude")
        what = f"{base}: Aligner-1 smaller than LoRA r=8 by"
        paper_says = f"{paper['times_fewer_than_lora']:,.1f} x"
        comparisons.append(Comparison(what, paper_says, f"{ratio:,.1f} x", claim.sentence, "exact", claim.verdict))
    return comparisons
