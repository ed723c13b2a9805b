"""What each arm is that trains: its method, options, learning rates, label and group; the one catalogue of them.

    ARMS["aligner-10"].new_adapter(model, seed=0)
    register_arm(Arm("lora-64", "LoRA r=64", "lora", {"r": 64}, group="LoRA"))

Probe, reproduction and figures read it. A probe has an arm that a user registers where its budget names it:
`Budget(arms=(..., "lora-64"))`, or with the `Arm` itself instead of the name.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters import (
    Adapter,
    Aligner,
    FullFineTune,
    Houlsby,
    LLaMAAdapter,
    LLaMAAdapterV2,
    LoRA,
    OutputBias,
    PromptTuning,
)
from aligner_probe.adapters.adapter import suggested_start_layer
from aligner_probe.adapters.registry import adapter_class, new_adapter
from aligner_probe.arguments import accepts, refuse
from aligner_probe.arms.names import (
    ALIGNER_1,
    ALIGNER_1_SHUFFLED,
    ALIGNER_10,
    ALIGNER_100,
    FULL,
    FULL_SHUFFLED,
    LLAMA_ADAPTER_10,
    LORA_1,
    LORA_8,
    LORA_16,
    ON_FEW,
    OUTPUT_BIAS,
    PROMPT_TUNING,
    RANDOM_SUBSPACE,
    REFERENCE_SHUFFLED,
)
from aligner_probe.errors import AlignerProbeError, did_you_mean
from aligner_probe.training.rates import at_width, rates_of

Rates = tuple[float, ...]


@dataclass(frozen=True)
class Arm:
    """A method with its options, as one side of a comparison.

    Args:
        name: under which it stands in plans, results and reports.
        label: its name in figures and tables.
        method: the registered method (`ap.register_adapter`).
        options: fields of the method's config, without the seed, and without a start layer where the method's default
            is the paper's.
        rates: the learning rates that are tried, for a base model of width `training.rates.WIDTH`; None for those that
            the method declares. Where none is tuned, the middle one is taken.
        group: the name of the arms that differ in size alone and whose scores are drawn against their size; None for an
            arm of one size only.
        shuffled_of: for an arm on shuffled answers, where every prompt has the completion of another prompt: the arm on
            the right answers that it is compared with. It takes that arm's learning rate.
        examples: for an arm on a part of the training examples: how many it takes (of a memory task, how many facts).
            None for all.
        part_of: for such an arm: the arm on all of them that it is compared with. It takes that arm's learning rate.
        sized_as: for the method "output_bias": the arm whose number of parameters is the option `subspace`.
        sweep_rates: the learning rates that the reproduction tries; None for `rates`.
    """

    name: str
    label: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: Rates | None = None
    group: str | None = None
    shuffled_of: str | None = None
    examples: int | None = None
    part_of: str | None = None
    sized_as: str | None = None
    sweep_rates: Rates | None = None

    def __post_init__(self) -> None:
        adapter_class(self.method)  # raises for a method that is not registered
        if self.examples is not None and self.examples < 1:
            raise AlignerProbeError(f"arm {self.name!r} takes {self.examples} examples; expected 1 or more, or None")

    def __reduce__(self) -> tuple[Callable[..., "Arm"], tuple[Any, ...]]:
        # The class travels with the arm: another process that reads it imports the class's module, which registers it.
        return _arm, (adapter_class(self.method), vars(self))

    @property
    def shuffled(self) -> bool:
        """Whether it trains on shuffled answers."""
        return self.shuffled_of is not None

    @property
    def rates_from(self) -> str:
        """The name of the arm whose learning rate it takes."""
        return self.shuffled_of or self.part_of or self.name

    @property
    def n_tokens(self) -> int | None:
        """Its prefix or prompt tokens; None for a method without any."""
        return self.options.get("n_tokens")

    @property
    def tried_rates(self) -> Rates:
        """The learning rates that are tried, for a base model of width `training.rates.WIDTH`."""
        return rates_of(self.method, **self.options) if self.rates is None else self.rates

    def rates_on(self, d_model: int) -> Rates:
        """The learning rates that are tried on a base model of this width, rounded to two digits."""
        return at_width(self.tried_rates, d_model)

    def stored_rate_on(self, d_model: int) -> float:
        """The learning rate where none is tuned: the middle of those that are tried."""
        rates = self.rates_on(d_model)
        return rates[len(rates) // 2]

    @property
    def stacks(self) -> bool:
        """Whether several of its runs can share a batch."""
        return adapter_class(self.method).stacks

    def new_adapter(self, model: TransformerBridge, seed: int, **changes: Any) -> Adapter:
        """The arm's adapter on a model, before training; `changes` are further options."""
        options = dict(self.options) | {"seed": seed}
        if adapter_class(self.method).starts_above:
            options.setdefault("start_layer", suggested_start_layer(model))
        if self.sized_as is not None:
            options["subspace"] = arm_named(self.sized_as).new_adapter(model, 0).n_parameters
        return new_adapter(self.method, model, options | changes)


def _arm(cls: type[Adapter], values: dict[str, Any]) -> Arm:
    return Arm(**values)


class _Arms(Mapping[str, Arm]):
    """Arms by name, in the order in which they were registered."""

    def __init__(self) -> None:
        self._arms: dict[str, Arm] = {}

    def __getitem__(self, name: str) -> Arm:
        return self._arms[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arms)

    def __len__(self) -> int:
        return len(self._arms)

    def add(self, arm: Arm) -> None:
        known = self._arms.get(arm.name)
        if known is not None and known != arm:
            raise AlignerProbeError(f"another arm is named {arm.name!r} already ({known}); give this one another name")
        self._arms[arm.name] = arm


#: All arms that train; a mapping that only `register_arm` changes.
ARMS = _Arms()


def _an_arm(value: Any, where: str) -> Arm:
    if isinstance(value, Arm):
        return value
    raise refuse(value, where, 'an arm: ap.Arm("NAME", "LABEL", ...)')


@accepts(arm=_an_arm)
def register_arm(arm: Arm) -> Arm:
    """Add an arm to the catalogue, and return it.

    Raises AlignerProbeError if another arm has its name. The same arm may be added again.
    """
    ARMS.add(arm)
    return arm


def arm_named(name: str) -> Arm:
    """An arm of the catalogue. Raises AlignerProbeError for an arm that is not there, or that trains nothing."""
    if name not in ARMS:
        raise AlignerProbeError(
            f"no arm that trains is named {name!r}; {did_you_mean(name, ARMS)}there are {', '.join(ARMS)}"
        )
    return ARMS[name]


def new_arm_adapter(name: str, model: TransformerBridge, seed: int) -> Adapter:
    """The adapter of an arm before training. Raises AlignerProbeError for an arm that trains nothing."""
    return arm_named(name).new_adapter(model, seed)


def label_of(name: str) -> str:
    """An arm's name in figures and tables; the name itself, where the arm is not in the catalogue of this process."""
    return ARMS[name].label if name in ARMS else name


def _aligner(name: str, n_tokens: int, label: str = "", **more: Any) -> Arm:
    more = {"group": "Aligner"} | more
    options = {"n_tokens": n_tokens} | more.pop("options", {})
    return Arm(name, label or f"Aligner-{n_tokens}", Aligner.method, options, **more)


def _lora(name: str, r: int, label: str = "", **more: Any) -> Arm:
    # The committed sweep (reproduction/learning_rates.json) tried a higher last rate than training does by default.
    return Arm(name, label or f"LoRA r={r}", LoRA.method, {"r": r}, sweep_rates=(4e-3, 1.5e-2, 6e-2), **more)


for _one in (
    _aligner(ALIGNER_1, 1),
    _aligner(ALIGNER_10, 10),
    _aligner("aligner-60", 60),
    _aligner(ALIGNER_100, 100),
    _aligner("aligner-300", 300),
    _aligner("gates-only", 1, "Aligner-1, gates only", options={"train": "gates"}, group=None),
    Arm(OUTPUT_BIAS, "free output bias", OutputBias.method),
    Arm(RANDOM_SUBSPACE, "random subspace", OutputBias.method, rates=OutputBias.subspace_rates, sized_as=ALIGNER_1),
    Arm(LLAMA_ADAPTER_10, "LLaMA-Adapter-10", LLaMAAdapter.method, {"n_tokens": 10}, group="LLaMA-Adapter"),
    # The committed sweep tried higher rates than training does by default.
    Arm(PROMPT_TUNING, "Prompt tuning-10", PromptTuning.method, {"n_tokens": 10}, sweep_rates=(4e-2, 1.5e-1, 5e-1)),
    _lora(LORA_1, 1, group="LoRA"),
    _lora(LORA_8, 8, group="LoRA"),
    Arm(LORA_16, "LoRA r=16, all linear", LoRA.method, {"r": 16, "targets": "all-linear"}),
    *(
        _lora(name, 8, f"LoRA r=8, {n} example{'s' * (n > 1)}", examples=n, part_of=LORA_8)
        for name, n in ON_FEW.items()
    ),
    Arm(FULL, "full fine-tune", FullFineTune.method),
    # Comparators that no budget has: a budget takes them by name.
    Arm("houlsby-8", "Houlsby adapter, m=8", Houlsby.method, {"bottleneck": 8}),
    Arm("llama-adapter-v2", "LLaMA-Adapter V2", LLaMAAdapterV2.method),
    Arm("prompt-tuning-100", "Prompt tuning-100", PromptTuning.method, {"n_tokens": 100}),
    _aligner(ALIGNER_1_SHUFFLED, 1, "Aligner-1, shuffled answers", group=None, shuffled_of=ALIGNER_1),
    _lora(REFERENCE_SHUFFLED, 8, "LoRA r=8, shuffled answers", shuffled_of=LORA_8),
    Arm(FULL_SHUFFLED, "full fine-tune, shuffled answers", FullFineTune.method, shuffled_of=FULL),
):
    register_arm(_one)

#: The arms of the standard and the thorough budget of a probe, in their order.
PROBE_ARMS = (
    ALIGNER_1,
    ALIGNER_10,
    ALIGNER_100,
    "gates-only",
    OUTPUT_BIAS,
    RANDOM_SUBSPACE,
    LLAMA_ADAPTER_10,
    PROMPT_TUNING,
    LORA_1,
    LORA_8,
    LORA_16,
    FULL,
    ALIGNER_1_SHUFFLED,
    REFERENCE_SHUFFLED,
    FULL_SHUFFLED,
    *ON_FEW,
)
#: The arms of the reproduction, in the order of its figures. Sixty tokens are ten for each of the six adapted layers of
#: the micro-world: the size of LLaMA-Adapter-10, as 300 tokens are on LLaMA-2 7B.
REPRODUCED_ARMS = (ALIGNER_1, ALIGNER_10, "aligner-60", "aligner-300", LLAMA_ADAPTER_10, LORA_8, PROMPT_TUNING)
