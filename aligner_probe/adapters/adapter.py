"""What every adapter is: some numbers of its own, and hooks that put them to work inside a `with` block.

    adapter = Aligner(model, n_tokens=1, start_layer=2, seed=0)
    with adapter.attached():
        model(tokens)                 # adapted
    model(tokens)                     # the base, without a trace

Hooks are permanent ones in TransformerLens's sense, since `run_with_cache`, `run_with_hooks` and `hooks()` remove all
others of the points they touch. Adapters add up when several are attached.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.bridges import state_of
from aligner_probe.errors import AlignerProbeError
from aligner_probe.hooks import AttentionShape, Family, family_of
from aligner_probe.html import Shown
from aligner_probe.models import architecture_of, check_raw, n_base_parameters
from aligner_probe.sizes import adapters_per_gpu_as_published
from aligner_probe.tokenizers import own_tokenizer

HookFunction = Callable[..., Tensor | None]
#: Below this many layers the paper's start layer 2 would leave half the model out; the user must choose.
FEWEST_LAYERS_FOR_DEFAULT = 6
DEFAULT_START_LAYER = 2


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """Options that every method has; `seed` draws the numbers it starts from."""

    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The method's own keyword arguments."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class LayeredConfig(AdapterConfig):
    """Of methods that work on layers: `start_layer` is the first adapted one, from zero."""

    start_layer: int = 0

    def __post_init__(self) -> None:
        require(self.start_layer >= 0, f"start_layer {self.start_layer}; expected 0 or more")


def require(condition: bool, message: str) -> None:
    """Raise AlignerProbeError with `message` unless `condition`."""
    if not condition:
        raise AlignerProbeError(message)


def default_start_layer(model: TransformerBridge) -> int:
    """The paper's 2; on a base of few layers it must be given. Raises AlignerProbeError with a suggestion there."""
    n_layers = model.cfg.n_layers
    require(
        n_layers >= FEWEST_LAYERS_FOR_DEFAULT,
        f"a base of {n_layers} layers needs start_layer to be given, since the default of {DEFAULT_START_LAYER} is "
        f"meant for deep models; try start_layer={n_layers // 4}",
    )
    return DEFAULT_START_LAYER


class Adapter(Shown, nn.Module, ABC):
    """A method's numbers on one base model; subclasses say which hooks do what with them."""

    method: ClassVar[str]
    #: Whether other adapters may be attached at the same time.
    stacks: ClassVar[bool] = True
    #: Positions it puts before the user's, out of the same context.
    n_positions: int = 0

    def __init__(self, model: TransformerBridge, config: AdapterConfig):
        super().__init__()
        self.config = config
        # Kept out of nn.Module's registry: the base's numbers are not the adapter's.
        self.__dict__["model"] = check_raw(model)
        own_tokenizer(model)
        self.family: Family = family_of(architecture_of(model))
        self.shape = AttentionShape.of(model)
        self._fired: dict[str, int] | None = None
        #: The numbers the last training began from, by name; None where there was none.
        self.start: dict[str, Tensor] | None = None
        #: What made the numbers, as the last training recorded it; `save_adapter` writes it down.
        self.provenance: dict[str, Any] | None = None
        #: The file that the numbers were loaded from, and its SHA-256; None where they were drawn, or trained since.
        self.loaded_from: dict[str, Any] | None = None
        require(
            self.layers.start < self.shape.n_layers,
            f"start_layer {self.layers.start} on a base of {self.shape.n_layers} layers adapts nothing; "
            f"expected at most {self.shape.n_layers - 1}",
        )

    @property
    def layers(self) -> range:
        """Adapted layers."""
        return range(getattr(self.config, "start_layer", 0), self.shape.n_layers)

    @property
    def n_parameters(self) -> int:
        """Numbers that are trained."""
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
        """The seed's own stream of random numbers, on the CPU: the same on every device."""
        return torch.Generator().manual_seed(self.config.seed)

    @abstractmethod
    def hook_functions(self) -> Iterator[tuple[str, HookFunction]]:
        """Hook names with what to do there, in the order they are to be added."""

    @property
    def is_attached(self) -> bool:
        return self._fired is not None

    @property
    def n_rows(self) -> int | None:
        """How many rows a batch must have, where it has been said what is done to each; None where any will do."""
        return None

    @contextmanager
    def selected(self, rows: Sequence[int]) -> Iterator[None]:
        """Inside, a batch has only these of the rows that `n_rows` counts, in this order.

        For those who sort, split or drop rows, as generation does. A method that treats all rows alike has nothing to
        do here.
        """
        yield

    @contextmanager
    def attached(self) -> Iterator["Adapter"]:
        """Adapt the model inside the block.

        Raises AlignerProbeError where the adapter is attached already or does not stack with one that is, and, at the
        end of a block in which the model ran, where a hook never fired: a silent no-op would be a false result.
        """
        others = state_of(self.model).attached
        require(not self.is_attached, f"this {self.method} is attached already; leave its `with` block first")
        for other in others:
            alone = self if not self.stacks else other if not other.stacks else None
            require(
                alone is None, f"{getattr(alone, 'method', '')} does not stack with other adapters; detach them first"
            )
        self._fired = {}
        others.append(self)
        runs = [0]

        def count_run(*_: object) -> None:
            runs[0] += 1

        # A run that stops early (stop_at_layer) does not get here and is not held against hooks further up.
        counter = self.model.original_model.register_forward_hook(count_run)
        handles: list[tuple[HookPoint, object]] = []
        try:
            with self._installed():
                for name, function in self.hook_functions():
                    point = hook_point(self.model, name)
                    self._fired[name] = 0
                    handles.append((point, point.add_hook(self._counted(name, function), is_permanent=True)))
                yield self
            silent = [name for name, times in self._fired.items() if times == 0]
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
        """What a method needs around its hooks; nothing, for most."""
        yield

    def _counted(self, name: str, function: HookFunction) -> HookFunction:
        def counted(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            self._fired[name] += 1
            return function(tensor, hook=hook)

        counted.of_adapter = True  # which tells it from a user's hook
        return counted

    def shown(self) -> dict[str, Any]:
        trained = {"n_parameters": self.n_parameters, "layers": f"{self.layers.start} to {self.layers.stop - 1}"}
        base = {"base": self.model.cfg.model_name, "attached": self.is_attached}
        return self.config.to_dict() | trained | base


def attached_to(model: TransformerBridge) -> tuple[Adapter, ...]:
    """Adapters that are attached to a model, the first one first."""
    return tuple(state_of(model).attached)


def attached_positions(model: TransformerBridge) -> int:
    """Positions of a model's context that the adapters attached to it take up."""
    return sum(adapter.n_positions for adapter in attached_to(model))


@contextmanager
def selected_rows(model: TransformerBridge, rows: Sequence[int]) -> Iterator[None]:
    """Inside, a batch has only these of its rows, in this order, for all adapters that are attached to a model."""
    with ExitStack() as stack:
        for adapter in attached_to(model):
            stack.enter_context(adapter.selected(rows))
        yield


def hook_point(model: TransformerBridge, name: str) -> HookPoint:
    """The hook point of a dotted name, aliases included (`blocks.3.attn.hook_z`)."""
    place: Any = model
    for part in name.split("."):
        place = place[int(part)] if part.isdigit() else getattr(place, part)
    return place
