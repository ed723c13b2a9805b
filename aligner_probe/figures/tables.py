"""Table 1: numbers trained by each method and adapters per GPU, with the paper's slips beside."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aligner_probe.figures.collection import Collection
from aligner_probe.figures.drawing import Comparison, Drawing
from aligner_probe.sizes import (
    LLAMA2_7B,
    adapters_per_gpu,
    adapters_per_gpu_as_published,
    parameter_table,
)

GPU_BYTES = 24e9
PREFIX_TOKENS = {"Aligner-1": 1, "Aligner-10": 10, "Aligner-300": 300, "LLaMA-Adapter-10": 300}
#: As printed, where that was copied from the paper; its row of adapters counts prefix numbers only.
PAPER_COUNTS = {"Aligner-10": "4.19K"}
PAPER_ADAPTERS = {"Aligner-1": "1.25M", "Aligner-10": "125K", "LLaMA-Adapter-10": "4.17K"}


def plot_table(ax: Axes, frame: pd.DataFrame) -> Axes:
    """A data frame as a table: first column to the left, numbers to the right."""
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
        if column == 0:
            cell.set_text_props(ha="left")
    return ax


def parameter_counts(collection: Collection) -> Drawing:
    """Table 1. Needs no weights; checkpoints at hand are counted and set beside the formula."""
    table = parameter_table(LLAMA2_7B, GPU_BYTES)
    frame = table.to_frame()
    frame["adapters_by_papers_rule"] = [
        adapters_per_gpu_as_published(PREFIX_TOKENS[name]) if name in PREFIX_TOKENS else pd.NA
        for name in frame["method"]
    ]
    frame["paper_prints_n_parameters"] = frame["method"].map(PAPER_COUNTS)
    frame["paper_prints_adapters"] = frame["method"].map(PAPER_ADAPTERS)
    shown = pd.DataFrame(
        {
            "method": frame["method"],
            "trained\nnumbers": [f"{n:,}" for n in frame["n_parameters"]],
            "fewer than\nLoRA by": [f"{ratio:,.1f} x" for ratio in frame["times_fewer_than_lora"]],
            "adapters on\n24 GB": [f"{n:,}" for n in frame["adapters_per_gpu"]],
            "by the\npaper's rule": ["–" if pd.isna(n) else f"{n:,}" for n in frame["adapters_by_papers_rule"]],
            "paper prints\nnumbers": frame["paper_prints_n_parameters"].fillna("–"),
            "paper prints\nadapters": frame["paper_prints_adapters"].fillna("–"),
        }
    )
    figure = Figure(figsize=(8.6, 3.4), layout="constrained")
    plot_table(figure.subplots(), shown)
    one = parameter_table(LLAMA2_7B).rows[0]["n_parameters"]
    ten_gb = adapters_per_gpu(10e9 + 2 * LLAMA2_7B.n_parameters, one, LLAMA2_7B)
    free = (GPU_BYTES - 2 * LLAMA2_7B.n_parameters) / 1e9
    counted = [
        Comparison(
            f"{c.label}: numbers in the file",
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
        f"Start layer 2, so 30 of 32 layers are adapted. Adapters on 24 GB: (24e9 - 2 x base) / (2 x numbers), "
        f"{free:.1f} GB being free beside the base in 16 bits. The paper's rule, 10 GB / (2 x tokens x 4,000), leaves "
        f'gates out: with them 10 GB hold {ten_gb:,} Aligner-1, so that "more than a million" hangs on rounding. Its '
        "4.19K for Aligner-10 is 41.9K (41,920). A dash: not in the paper, or not copied from it.",
        collection.checkpoints,
        settings={"base": LLAMA2_7B.name, "gpu_bytes": GPU_BYTES, "start_layer": 2},
        comparisons=(
            Comparison("Aligner-10, numbers", "4.19K", "41,920", "slip in the paper: 41.9K"),
            *(
                Comparison(
                    f"{row['method']}, adapters on 24 GB",
                    PAPER_ADAPTERS.get(row["method"]),
                    f"{row['adapters_per_gpu']:,}",
                    "the paper's counts prefix numbers only, without gates" if row["method"] in PAPER_ADAPTERS else "",
                )
                for row in table.rows
            ),
            *counted,
        ),
    )
