"""How many parameters each method trains, and how many adapters fit on one GPU: Table 1 of arXiv 2312.05503."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from aligner_probe.arguments import accepts, refuse
from aligner_probe.html import Shown


@dataclass(frozen=True)
class BaseShape:
    """The sizes of a base model that the size of an adapter depends on. `n_parameters` are the parameters of the base
    model.
    """

    name: str
    d_model: int
    n_layers: int
    n_heads: int
    n_parameters: int


LLAMA2_7B = BaseShape("LLaMA-2 7B", d_model=4096, n_layers=32, n_heads=32, n_parameters=6_738_415_616)
LLAMA2_13B = BaseShape("LLaMA-2 13B", d_model=5120, n_layers=40, n_heads=40, n_parameters=13_015_864_320)


def aligner_parameters(base: BaseShape, n_tokens: int, start_layer: int = 2) -> int:
    """One prefix for all layers, a gate a head: n_tokens x d_model + adapted layers x n_heads."""
    return n_tokens * base.d_model + (base.n_layers - start_layer) * base.n_heads


def llama_adapter_parameters(base: BaseShape, n_tokens: int = 10, start_layer: int = 2) -> int:
    """One prefix a layer, a gate a head."""
    return (base.n_layers - start_layer) * (n_tokens * base.d_model + base.n_heads)


def lora_parameters(base: BaseShape, r: int = 8, targets: int = 2) -> int:
    """A and B of rank r beside `targets` square projections (query and value) of every layer."""
    return base.n_layers * targets * 2 * r * base.d_model


def adapters_per_gpu(n_bytes: float, n_parameters: int, base: BaseShape, bytes_per_number: int = 2) -> int:
    """How many adapters fit next to one base model: floor((bytes - 2 base) / (2 n_parameters)), with 16 bits per
    parameter.
    """
    return int((n_bytes - bytes_per_number * base.n_parameters) // (bytes_per_number * n_parameters))


def adapters_per_gpu_as_published(n_tokens: int) -> int:
    """The rule behind the row that the paper prints: 10 GB are free, d_model is taken as 4,000, and gates are not
    counted.

    `n_tokens` counts all prefix tokens: 300 for LLaMA-Adapter with 10 tokens in each of 30 layers.
    """
    return int(10e9 // (2 * n_tokens * 4000))


def _base_shape(value: Any, where: str) -> BaseShape:
    if isinstance(value, BaseShape):
        return value
    raise refuse(
        value, where, "a base's sizes: aligner_probe.sizes.BaseShape(name, d_model, n_layers, n_heads, n_parameters)"
    )


@dataclass(frozen=True, repr=False)
class ParameterTable(Shown):
    """Table 1 for one base model and GPU size."""

    base: BaseShape
    gpu_bytes: float
    rows: tuple[dict[str, Any], ...]

    def shown(self) -> dict[str, Any]:
        return {
            "base": self.base.name,
            "parameters": {row["method"]: row["n_parameters"] for row in self.rows},
        }

    def to_frame(self) -> pd.DataFrame:
        """One row a method."""
        return pd.DataFrame(self.rows)


@accepts(base=_base_shape)
def parameter_table(base: BaseShape = LLAMA2_7B, gpu_bytes: float = 24e9) -> ParameterTable:
    """The trained parameters of the paper's methods, their size relative to LoRA, and adapters per GPU.

    Args:
        base: Sizes of a base model; by default those of LLaMA-2 7B.
        gpu_bytes: Memory of one GPU in bytes.

    Returns:
        Table 1 for this base model; `to_frame()` has one row per method.

    Source:
        Table 1 of arXiv 2312.05503.
    """
    counts = {
        "Aligner-1": aligner_parameters(base, 1),
        "Aligner-10": aligner_parameters(base, 10),
        "Aligner-300": aligner_parameters(base, 300),
        "LLaMA-Adapter-10": llama_adapter_parameters(base),
        "LoRA r=8": lora_parameters(base),
    }
    return ParameterTable(
        base,
        gpu_bytes,
        tuple(
            {
                "method": method,
                "n_parameters": count,
                "times_fewer_than_lora": counts["LoRA r=8"] / count,
                "adapters_per_gpu": adapters_per_gpu(gpu_bytes, count, base),
            }
            for method, count in counts.items()
        ),
    )
