"""What every adapter is: parameters of its own, and hooks that use them inside a `with` block.

    adapter = Aligner(model, n_tokens=1, start_layer=2, seed=0)
    with adapter.attached():
        model(tokens)                 # adapted
    model(tokens)                     # the base model again, as it was before

The hooks are permanent ones in TransformerLens's sense, because `run_with_cache`, `run_with_hooks` and `hooks()` remove
all other hooks of the hook points that they touch. Where several adapters are attached, what they add is summed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.config import AdapterConfig, require
from aligner_probe.bridges import state_of
from aligner_probe.families import Family, family_of
from aligner_probe.hooks import AttentionShape
from aligner_probe.html import Shown
from aligner_probe.models import architecture_of, check_raw, device_of, n_base_parameters
from aligner_probe.sizes import adapters_per_gpu_as_published
from aligner_probe.tokenizers import own_tokenizer

HookFunction = Callable[..., Tensor | None]


@dataclass(frozen=True)
class RowParameters:
    """The parameters of many adapters of one shape, one adapter a row of a batch.

    Attributes:
        tensors: by the name of a parameter, (rows, *shape of the parameter), on the device of the base model. A row of
            the base model alone has zeros. There is one row where all rows of the batch have the same adapter.
    """

    tensors: Mapping[str, Tensor]
    _kept: dict[Any, Any] = field(default_factory=dict)

    def once(self, key: Any, compute: Callable[["RowParameters"], Any]) -> Any:
        """What `compute` makes of the parameters; it is computed once, as long as the rows stay the same."""
        if key not in self._kept:
            self._kept[key] = compute(self)
        return self._kept[key]


#: Gives the parameters of the rows of the present batch.
OfRows = Callable[[], RowParameters]
#: On a base model of fewer layers, the paper's start layer 2 would leave a large part of the model without an adapter.
FEWEST_LAYERS_FOR_DEFAULT = 6
DEFAULT_START_LAYER = 2


def default_start_layer(model: TransformerBridge) -> int:
    """The paper's start layer, 2.

    Raises AlignerProbeError, with a suggestion, on a base model of few layers, where the user has to choose it.
    """
    n_layers = model.cfg.n_layers
    require(
        n_layers >= FEWEST_LAYERS_FOR_DEFAULT,
        f"a base of {n_layers} layers needs start_layer to be given, since the default of {DEFAULT_START_LAYER} is "
        f"meant for deep models; try start_layer={n_layers // 4}",
    )
    return DEFAULT_START_LAYER


def suggested_start_layer(model: TransformerBridge) -> int:
    """The paper's start layer, 2; on a base model of few layers, a quarter of its layers."""
    return start_layer_of(model.cfg.n_layers)


def start_layer_of(n_layers: int) -> int:
    """The same for a base model of so many layers."""
    return DEFAULT_START_LAYER if n_layers >= FEWEST_LAYERS_FOR_DEFAULT else n_layers // 4


class Adapter(Shown, nn.Module, ABC):
    """An adapter on one base model.

    A subclass implements `hook_functions`: what is computed at which hook points. The class attributes and the methods
    below them declare what other parts of the package need to know of a method; each has a default that suits a method
    which adds to the activations of a layer. A subclass's constructor calls this one with the base model (`model`) and
    the options as a config (`config`).

    Attributes:
        method: the name under which `register_adapter` registered the class.
        label: the method's name in figures and messages to readers; by default the class's name.
        stacks: whether it works row by row, so that other adapters can be attached at the same time.
        n_positions: how many positions it puts before the user's tokens; they count towards the context length.
        starts_above: whether its default start layer is the paper's 2 instead of 0.
        reads_scores: whether it reads the attention scores, which are then written to memory.
        keeps_base_dtype: whether its parameters stay in the data type of the base model when they are trained.
        learning_rates: a lower rate, the default and a higher one, for SFT on a base model of width
            `training.rates.WIDTH`.
        published_recipe: by row type ("sft", "preference"): fields of the recipe "as-published" in which this
            method was trained in another way than Aligner: by the script of Aligner's authors or, where they did not
            train it, in the paper of the method.
        published_notes: by row type: how that recipe still differs from what was published.
        export_instead: what a user can do where the adapter cannot be merged or written as vectors.
        start_options: fields of the config that say how parameters start and which are trained, and not what is
            computed with them. Adapters that differ in these alone can be in one pool.
    """

    method: ClassVar[str]
    label: ClassVar[str] = ""
    stacks: ClassVar[bool] = True
    n_positions: int = 0
    starts_above: ClassVar[bool] = False
    reads_scores: ClassVar[bool] = False
    keeps_base_dtype: ClassVar[bool] = False
    learning_rates: ClassVar[tuple[float, float, float]] = (0.003, 0.01, 0.03)
    published_recipe: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    published_notes: ClassVar[Mapping[str, str]] = {}
    export_instead: ClassVar[str] = "ap.save_adapter keeps it as it is"
    start_options: ClassVar[frozenset[str]] = frozenset({"seed"})
    config: AdapterConfig
    model: TransformerBridge

    def __init__(self, model: TransformerBridge, config: AdapterConfig):
        super().__init__()
        self.config = config
        # Not as an attribute of nn.Module, since the base model's parameters are not the adapter's.
        object.__setattr__(self, "model", check_raw(model))
        own_tokenizer(model)
        self.family: Family = family_of(architecture_of(model))
        self.shape = AttentionShape.of(model)
        self._fired: dict[str, int] | None = None
        #: The parameters that the last training started from, by name; None where there was no training.
        self.start: dict[str, Tensor] | None = None
        #: What the last training recorded about itself; `save_adapter` writes it.
        self.provenance: dict[str, Any] | None = None
        #: The file that the parameters were loaded from, and its SHA-256; None where they were initialised or trained
        #: since.
        self.loaded_from: dict[str, Any] | None = None
        require(
            self.layers.start < self.shape.n_layers,
            f"start_layer {self.layers.start} on a base of {self.shape.n_layers} layers adapts nothing; "
            f"expected at most {self.shape.n_layers - 1}",
        )

    @classmethod
    def rates_for(cls, options: Mapping[str, Any]) -> tuple[float, float, float]:
        """`learning_rates`, where they do not depend on the options of the config."""
        return cls.learning_rates

    @classmethod
    def depends_on_input(cls, options: Mapping[str, Any]) -> str:
        """Whether what it adds to a layer depends on the input.

        Args:
            options: fields of the config; one that is missing has its default.

        Returns:
            An empty text where it adds one and the same vector whatever the input, so that it can be merged and written
            as steering vectors. Else a sentence that begins with the method's name and says why it cannot.
        """
        return (
            f"{cls.method} cannot be merged or written as vectors: what it adds depends on the input; "
            f"{cls.export_instead}"
        )

    def shifts(self) -> dict[int, Float[Tensor, " d_model"]]:
        """By layer, the vector that is added to the layer's attention output whatever the input, in float64.

        Only for adapters for which `depends_on_input` is empty; `adapters.constant.constant_shifts` checks that.
        """
        raise NotImplementedError(f"{type(self).__name__} adds a constant and does not say which")

    def folded(self) -> "Adapter":
        """The adapter as it is saved: this one, or one that computes the same without what is for training only.

        A method that trains its parameters through others (prefix tuning with `reparametrise`) returns another adapter
        here, with the same `start`, `provenance` and `loaded_from`. A training's own state is not folded.
        """
        return self

    def activations_per_token(self) -> int:
        """How many values a token and adapted layer are kept for the gradients of the adapter's own parameters.

        By default the input of one projection, d_model values. The memory estimate counts them.
        """
        return self.shape.d_model

    @property
    def layers(self) -> range:
        """Adapted layers."""
        return range(getattr(self.config, "start_layer", 0), self.shape.n_layers)

    @property
    def device(self) -> torch.device:
        """The device of the base model."""
        return device_of(self.model)

    @property
    def n_parameters(self) -> int:
        """How many parameters are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def adapters_per_gpu(self, n_bytes: float | int, *, as_published: bool = False) -> int:
        """Adapters of this size that fit beside one base in 16 bits: floor((bytes - 2 base) / (2 n_parameters)).

        `as_published` applies the paper's rule to Table 1 instead: 10 GB free whatever the card, d_model taken as
        4,000, gates left out.
        """
        if as_published:
            tokens = self.n_parameters // self.shape.d_model
            require(tokens > 0, f"the paper's rule counts prefix tokens, and this {self.method} has none")
            return adapters_per_gpu_as_published(tokens)
        return max(0, int((n_bytes - 2 * n_base_parameters(self.model)) // (2 * self.n_parameters)))

    def generator(self) -> torch.Generator:
        """A generator with the start seed, on the CPU, so that the initial values are the same on every device."""
        return torch.Generator().manual_seed(self.config.seed)

    @abstractmethod
    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        """Names of hook points, each with the function to call there, in the order in which they are added.

        A function takes the tensor at the hook point and, as `hook`, the hook point itself; it returns the new tensor,
        or None to leave it as it is.
        """

    @classmethod
    def not_pooled(cls, options: Mapping[str, Any]) -> str:
        """Whether many adapters of this method can be held as stacked tensors, and adapt a row each (`AdapterPool`).

        Args:
            options: fields of the config; one that is missing has its default.

        Returns:
            An empty text where they can: `hook_functions_by_row` is implemented, and parameters of zero leave the base
            model as it is. Else a sentence that begins with the method's name and says why they cannot.
        """
        return f"{cls.method} has no computation with other parameters in each row, so it cannot be in a pool"

    def hook_functions_by_row(self, of_rows: OfRows) -> Iterator[tuple[str, HookFunction]]:
        """As `hook_functions`, with the parameters that `of_rows` gives for each row in place of the adapter's own.

        Only for adapters for which `not_pooled` is empty.
        """
        raise NotImplementedError(f"{type(self).__name__} can be in a pool and does not say what it computes there")

    @property
    def is_attached(self) -> bool:
        return self._fired is not None

    @property
    def n_rows(self) -> int | None:
        """How many rows a batch must have, where the adapter treats each row in its own way; None for any number."""
        return None

    @contextmanager
    def selected(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside the block, a batch has only these of the rows that `n_rows` counts, in this order.

        Generation, which sorts, splits and drops rows, calls this. A method that treats all rows alike ignores it.
        """
        yield

    @contextmanager
    def attached(self) -> Iterator["Adapter"]:
        """Adapt the model inside the block.

        Raises AlignerProbeError where the adapter is attached already, or does not stack with another one that is. At
        the end of a block in which the model was called, it also raises where one of the hooks was never called, since
        an adapter without an effect would give wrong results without a warning.
        """
        others = state_of(self.model).attached
        require(not self.is_attached, f"this {self.method} is attached already; leave its `with` block first")
        for other in others:
            alone = self if not self.stacks else other if not other.stacks else None
            require(
                alone is None, f"{getattr(alone, 'method', '')} does not stack with other adapters; detach them first"
            )
        fired: dict[str, int] = {}
        self._fired = fired
        others.append(self)
        runs = [0]

        def count_run(*_: object) -> None:
            runs[0] += 1

        # A forward pass that stops early (stop_at_layer) is not counted: the hooks above that layer are not called.
        counter = self.model.original_model.register_forward_hook(count_run)
        handles: list[tuple[HookPoint, Any]] = []
        try:
            with self._installed():
                for name, function in self.hook_functions():
                    point = hook_point(self.model, name)
                    fired[name] = 0
                    counted = self._counted(name, function, fired)
                    handles.append((point, point.add_hook(counted, is_permanent=True)))
                yield self
            silent = [name for name, times in fired.items() if times == 0]
            require(
                not (runs[0] and silent),
                f"{self.method} had no effect at {', '.join(silent[:3])}: the hook never fired in {runs[0]} runs. "
                "Is the model in a mode that bypasses it, or were hooks reset with including_permanent=True?",
            )
        finally:
            counter.remove()
            for point, handle in handles:
                handle.hook.remove()
                if handle in point.fwd_hooks:
                    point.fwd_hooks.remove(handle)
            others.remove(self)
            self._fired = None

    @contextmanager
    def _installed(self) -> Iterator[None]:
        """For methods that change the model by more than hooks: the change lasts as long as the block."""
        yield

    def _counted(self, name: str, function: HookFunction, fired: dict[str, int]) -> HookFunction:
        def counted(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            fired[name] += 1
            return function(tensor, hook=hook)

        vars(counted)["of_adapter"] = True  # which distinguishes it from a user's hook
        return counted

    def shown(self) -> dict[str, Any]:
        trained = {"n_parameters": self.n_parameters, "layers": f"{self.layers.start} to {self.layers.stop - 1}"}
        base = {"base": self.model.cfg.model_name, "attached": self.is_attached}
        return self.config.to_dict() | trained | base


def attached_to(model: TransformerBridge) -> tuple[Adapter, ...]:
    """Adapters that are attached to a model, in the order in which they were attached."""
    return tuple(state_of(model).attached)


def attached_positions(model: TransformerBridge) -> int:
    """How many positions of a model's context the attached adapters take up."""
    return sum(adapter.n_positions for adapter in attached_to(model))


@contextmanager
def selected_rows(model: TransformerBridge, rows: Sequence[int]) -> Iterator[None]:
    """Inside the block, a batch has only these of its rows, in this order, for all adapters attached to the model."""
    with ExitStack() as stack:
        for adapter in attached_to(model):
            stack.enter_context(adapter.selected(rows))
        yield


def hook_point(model: TransformerBridge, name: str) -> HookPoint:
    """The hook point of a dotted name (`blocks.3.attn.hook_z`); aliases of TransformerLens are known, too."""
    module: Any = model
    for part in name.split("."):
        module = module[int(part)] if part.isdigit() else getattr(module, part)
    return module
