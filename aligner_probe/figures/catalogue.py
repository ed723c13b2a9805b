"""Which figures there are, by number; nothing is imported to draw them until they are drawn.

Figures of weights are drawn from checkpoints, anybody's; figures of scores and answers (`of_runs`) from the runs of
`aligner-probe reproduce`, on any base model.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from aligner_probe.errors import AlignerProbeError, did_you_mean


@dataclass(frozen=True)
class Entry:
    """A figure or table: its number as in the paper, its file name, and where the function that draws it lives.

    `of_runs` says that it needs what runs scored, not only their weights; `of_world`, that it is of the micro-world
    alone. `varies` says that its picture depends on the
    processor too: a last bit decides where UMAP puts a point. The picture of an earlier run from the same inputs stays.
    """

    id: str
    slug: str
    title: str
    paper: str
    draw: str
    aliases: tuple[str, ...] = ()
    of_runs: bool = False
    varies: bool = False
    of_world: bool = False

    @property
    def stem(self) -> str:
        """File name without ending, for instance `fig07_gate_std_by_layer`."""
        return f"{self.id}_{self.slug}"


CATALOGUE = (
    Entry("table1", "parameter_counts", "Trained parameters of each method", "Table 1", "tables:parameter_counts"),
    Entry("table2", "win_rates", "Aligner against its rivals, pair by pair", "Table 2", "judged:win_rates", (), True),
    Entry("table3", "single_scores", "Answers scored one by one, of 10", "Table 3", "judged:single_scores", (), True),
    Entry("fig02", "sample_responses", "Answers side by side", "Figure 2", "responses:instructions", (), True),
    Entry("fig03", "safety_by_category", "Safety by category", "Figure 3", "safety:by_category", (), True),
    Entry("fig04", "safety_responses", "Answers to harmful requests", "Figure 4", "responses:safety", (), True),
    Entry(
        "fig05a",
        "knowledge_kept",
        "Knowledge kept after instruction tuning",
        "Figure 5a",
        "knowledge:kept",
        (),
        True,
    ),
    Entry(
        "fig05b",
        "math_by_parameters",
        "Math by number of trained parameters",
        "Figure 5b",
        "knowledge:math_by_parameters",
        (),
        True,
    ),
    Entry(
        "fig07",
        "gate_std_by_layer",
        "Spread of the gates by layer",
        "Figures 6a and 7",
        "gates:std_by_layer",
        ("fig06a",),
    ),
    Entry("fig08", "gate_mean_by_layer", "Mean of the gates by layer", "Figure 8", "gates:mean_by_layer"),
    Entry("fig09", "gate_std_by_head", "Spread of the gates by head position", "Figure 9", "gates:std_by_head"),
    Entry("fig10", "gate_mean_by_head", "Mean of the gates by head position", "Figure 10", "gates:mean_by_head"),
    Entry("fig11", "all_gates", "All gates in order", "Figure 11", "gates:all_gates"),
    Entry("fig12", "one_token_among_many", "Is the one token the centre?", "Figure 12", "embeddings:one_among_many"),
    Entry(
        "fig13",
        "aligner1_and_llama_adapter",
        "Aligner-1 among LLaMA-Adapter's tokens",
        "Figure 13",
        "embeddings:one_and_adapter",
    ),
    Entry(
        "fig14",
        "aligner10_and_llama_adapter",
        "Aligner-10 among LLaMA-Adapter's tokens",
        "Figure 14",
        "embeddings:ten_and_adapter",
    ),
    Entry(
        "fig15",
        "four_models",
        "Tokens of two methods on two data sets",
        "Figures 6b and 15",
        "embeddings:four_models",
        ("fig06b",),
    ),
    Entry(
        "fig16",
        "embedding_differences",
        "Differences between two data sets",
        "Figure 16",
        "equality:embedding_differences",
    ),
    Entry(
        "extra01",
        "equality_by_magnitude",
        "Equal parameters by magnitude, and half a ULP",
        "not in the paper",
        "equality:equality_by_magnitude",
    ),
    Entry(
        "extra02",
        "one_token_among_many_umap",
        "Figure 12 by UMAP",
        "not in the paper",
        "embeddings:one_among_many_umap",
        varies=True,
    ),
    Entry(
        "extra03",
        "equality_by_storage_and_seed",
        "Equal parameters by storage precision and seed",
        "not in the paper",
        "storage:equality_by_storage",
        (),
        True,
    ),
    Entry(
        "extra04",
        "token_and_gate_movement",
        "How far tokens and gates move",
        "not in the paper",
        "movement:tokens_and_gates",
        (),
        True,
    ),
    Entry(
        "extra05",
        "control_arms",
        "What Aligner-1's parts do",
        "not in the paper",
        "movement:control_arms",
        (),
        True,
    ),
    Entry(
        "extra06",
        "tasks_of_known_nature",
        "Tasks of known nature, probed",
        "not in the paper",
        "panel:known_tasks",
        (),
        True,
        of_world=True,
    ),
    Entry(
        "extra07",
        "a_verdict",
        "A verdict, and the tasks of known nature",
        "not in the paper",
        "panel:a_verdict",
        (),
        True,
        of_world=True,
    ),
    Entry(
        "extra08",
        "separators",
        "What separates new tasks from form and latent ones",
        "not in the paper",
        "separators:separators",
        (),
        True,
        of_world=True,
    ),
    Entry(
        "extra09",
        "form_against_knowledge",
        "Form reached against knowledge kept",
        "not in the paper",
        "frontier:frontiers",
        (),
        True,
        of_world=True,
    ),
)

IMAGE_TYPES = ("png", "svg", "pdf")


def find(names: Iterable[str]) -> list[Entry]:
    """Entries by id or alias, in the order of the catalogue, each once.

    Raises AlignerProbeError for an unknown name, with the known ones and the nearest.
    """
    known = {name: entry for entry in CATALOGUE for name in (entry.id, *entry.aliases)}
    chosen = set()
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise AlignerProbeError(f"no figure is named {name!r}; {hint}there are {', '.join(known)}")
        chosen.add(known[name].id)
    return [entry for entry in CATALOGUE if entry.id in chosen]
