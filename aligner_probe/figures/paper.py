"""Numbers that the paper prints (arXiv 2312.05503), to stand beside ours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class JudgedCell:
    """A cell of Table 2: an Aligner against a rival on 80 questions, judged by GPT-4."""

    base: str
    aligner: str
    rival: str
    wins: int
    losses: int
    ties: int
    adjusted_win_rate: float

    @property
    def n(self) -> int:
        return self.wins + self.losses + self.ties


#: Table 2, as printed: win/loss/tie and the Aligner's adjusted win rate.
TABLE_2 = (
    JudgedCell("LLaMA-2 7B", "Aligner-1", "LLaMA-Adapter-10", 26, 35, 19, 0.443),
    JudgedCell("LLaMA-2 7B", "Aligner-1", "LoRA r=8", 20, 26, 34, 0.463),
    JudgedCell("LLaMA-2 7B", "Aligner-10", "LLaMA-Adapter-10", 28, 26, 26, 0.528),
    JudgedCell("LLaMA-2 7B", "Aligner-10", "LoRA r=8", 26, 25, 29, 0.506),
    JudgedCell("LLaMA-2 13B", "Aligner-1", "LLaMA-Adapter-10", 22, 28, 30, 0.463),
    JudgedCell("LLaMA-2 13B", "Aligner-1", "LoRA r=8", 16, 31, 33, 0.406),
    JudgedCell("LLaMA-2 13B", "Aligner-10", "LLaMA-Adapter-10", 27, 27, 26, 0.500),
    JudgedCell("LLaMA-2 13B", "Aligner-10", "LoRA r=8", 21, 28, 31, 0.456),
)
#: Table 3, as printed: single answers, of 10.
TABLE_3 = {
    "LLaMA-2 7B": {"Aligner-1": 5.363, "Aligner-10": 5.694, "LLaMA-Adapter-10": 5.713, "LoRA r=8": 5.625},
    "LLaMA-2 13B": {"Aligner-1": 5.625, "Aligner-10": 5.725, "LLaMA-Adapter-10": 5.800, "LoRA r=8": 6.1625},
}
#: Section 5.1 and Figure 16: equal parameters of the 4096 of a token, Alpaca against MetaMath.
EQUAL_PARAMETERS = {
    "aligner": "2408 of 4096",
    "llama_adapter": "2502.16 on average a token, sd 310.4, range 1342 to 3321",
}
