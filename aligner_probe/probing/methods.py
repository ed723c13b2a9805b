"""The trained arms of a probe: which adapter each is, and what size of a family.

The learning rates that are tried are those of `aligner_probe.training.rates`.
"""

from dataclasses import dataclass, field
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import Adapter
from aligner_probe.adapters.adapter import DEFAULT_START_LAYER, FEWEST_LAYERS_FOR_DEFAULT
from aligner_probe.checkpoints.adapters import METHODS as CLASSES
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.probing.arms import (
    ALIGNER_1,
    ALIGNER_1_SHUFFLED,
    OUTPUT_BIAS,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.training.rates import at_width, rates_of

#: The first candidate for the reference, and the second, tried only where the first has not learned.
LORA_8, FULL = "lora-8", "full"
#: The second on shuffled answers, tried where the second is.
FULL_SHUFFLED = "full-shuffled"
#: Methods that are tried only where the first candidate has not learned.
CONDITIONAL = (FULL, FULL_SHUFFLED)
#: Methods that work from the start layer on.
PREFIXED = ("aligner", "llama_adapter", "output_bias")


@dataclass(frozen=True)
class Method:
    """`adapter` is its class's method name, `options` its keyword arguments but seed and start layer.

    `rates` are the learning rates tried on a base of width `rates.WIDTH`, the middle one stored. `family` is what its
    dose-response is drawn with. On `shuffled` answers every prompt has another one's completion.
    """

    name: str
    label: str
    adapter: str
    rates: tuple[float, ...]
    options: dict[str, Any] = field(default_factory=dict)
    family: str | None = None
    shuffled: bool = False

    def rates_on(self, d_model: int) -> tuple[float, ...]:
        """The learning rates tried on a base of this width, with two digits."""
        return at_width(self.rates, d_model)

    def stored_rate_on(self, d_model: int) -> float:
        """What is taken where none is tuned: the middle of those tried."""
        rates = self.rates_on(d_model)
        return rates[len(rates) // 2]


def _aligner(n_tokens: int, name: str = "", label: str = "", **more: Any) -> Method:
    return Method(
        name or f"aligner-{n_tokens}",
        label or f"Aligner-{n_tokens}",
        "aligner",
        rates_of("aligner"),
        {"n_tokens": n_tokens} | more.pop("options", {}),
        **({"family": "Aligner"} | more),
    )


def _lora(r: int, name: str = "", label: str = "", **more: Any) -> Method:
    name, label, rates = name or f"lora-{r}", label or f"LoRA r={r}", rates_of("lora")
    return Method(name, label, "lora", rates, {"r": r}, **({"family": "LoRA"} | more))


def _full(name: str, label: str, **more: Any) -> Method:
    return Method(name, label, "full", rates_of("full"), **more)


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        _aligner(1),
        _aligner(10),
        _aligner(100),
        _aligner(1, "gates-only", "Aligner-1, gates only", options={"train": "gates"}, family=None),
        Method(OUTPUT_BIAS, "free output bias", "output_bias", rates_of("output_bias")),
        Method(RANDOM_SUBSPACE, "random subspace", "output_bias", rates_of("output_bias", subspace=1)),
        Method(
            "llama-adapter-10", "LLaMA-Adapter-10", "llama_adapter", rates_of("llama_adapter"), {"n_tokens": 10},
            family="LLaMA-Adapter",
        ),
        Method(PROMPT_TUNING, "PromptTuning-10", "prompt_tuning", rates_of("prompt_tuning"), {"n_tokens": 10}),
        _lora(1),
        _lora(8),
        _full(FULL, "full fine-tune"),
        _aligner(1, ALIGNER_1_SHUFFLED, "Aligner-1, shuffled answers", family=None, shuffled=True),
        _lora(8, REFERENCE_SHUFFLED, "LoRA r=8, shuffled answers", family=None, shuffled=True),
        _full(FULL_SHUFFLED, "full fine-tune, shuffled answers", shuffled=True),
    )
}  # fmt: skip


def rates_from(method: Method) -> str:
    """Whose learning rate a method takes: on shuffled answers, that of the same method on the true ones."""
    of = {ALIGNER_1_SHUFFLED: ALIGNER_1, REFERENCE_SHUFFLED: LORA_8, FULL_SHUFFLED: FULL}
    return of.get(method.name, method.name)


def start_layer_of(model: TransformerBridge) -> int:
    """The paper's 2; a quarter of the way up on a base of few layers, where 2 would leave half of it out."""
    n_layers = model.cfg.n_layers
    return DEFAULT_START_LAYER if n_layers >= FEWEST_LAYERS_FOR_DEFAULT else n_layers // 4


def new_adapter(name: str, model: TransformerBridge, seed: int) -> Adapter:
    """The adapter of an arm, as it starts. Raises AlignerProbeError for an arm that trains nothing."""
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        raise AlignerProbeError(f"no arm that trains is named {name!r}; {hint}there are {', '.join(METHODS)}")
    method = METHODS[name]
    options = method.options | {"seed": seed}
    if method.adapter in PREFIXED:
        options |= {"start_layer": start_layer_of(model)}
    if name == RANDOM_SUBSPACE:
        options |= {"subspace": new_adapter(ALIGNER_1, model, 0).n_parameters}
    return CLASSES[method.adapter](model, **options)
