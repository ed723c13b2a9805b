"""How far frozen gates are opened. The arm that trains tokens only leaves its gates at one constant, chosen before
training.

The constant makes the median norm of what the adapter adds to the residual stream 5 % of the norm of that stream at the
entrance of the layer. The median is over all real positions of some examples and all adapted layers, with the tokens as
they are drawn. What is added is W_O times the change of the head outputs. It is measured with the adapter attached, so
it includes the effect of lower layers on upper ones.

    opened = open_gate(model, task, Aligner, n_tokens=1, start_layer=2)
    adapter = Aligner(model, n_tokens=1, start_layer=2, train="tokens", initial_gate=opened.initial_gate)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge

from aligner_probe.adapters.prefix import Aligner, LLaMAAdapter
from aligner_probe.arguments import a_model, accepts, refuse
from aligner_probe.errors import AlignerProbeError
from aligner_probe.html import Shown
from aligner_probe.models import device_of, embedding_rows, threads_for
from aligner_probe.tasks.encoding import encode
from aligner_probe.tasks.given import one_task
from aligner_probe.tasks.task import Task
from aligner_probe.tasks.tokenizing import pad_id
from aligner_probe.threads import using
from aligner_probe.tokenizers import own_tokenizer
from aligner_probe.training.sequences import Sequences

SHARE = 0.05
#: Examples looked at, evenly from the task.
N_EXAMPLES = 32
FIRST_GUESS, ROUNDS, PRECISION = 0.01, 30, 1e-3


@dataclass(frozen=True, repr=False)
class OpenGate(Shown):
    """A constant for frozen gates.

    `initial_gate` is the value for the adapter's option of that name, `share` what was asked for, and `measured` the
    share that it gives: the median over `n_positions` positions and all adapted layers.
    """

    initial_gate: float
    share: float
    measured: float
    n_positions: int

    def shown(self) -> dict[str, Any]:
        return {
            "initial_gate": self.initial_gate,
            "share": self.measured,
            "positions": self.n_positions,
        }


def _prefix_method(value: Any, where: str) -> type[Aligner] | type[LLaMAAdapter]:
    if value in (Aligner, LLaMAAdapter):
        return value
    raise refuse(value, where, "ap.Aligner or ap.LLaMAAdapter, the class itself")


@accepts(model=a_model, task=one_task, method=_prefix_method)
def open_gate(
    model: TransformerBridge,
    task: Task,
    method: type[Aligner] | type[LLaMAAdapter] = Aligner,
    *,
    share: float = SHARE,
    max_length: int | None = None,
    n_tokens: int | None = None,
    start_layer: int | None = None,
    seed: int = 0,
    gate_function: Literal["linear", "tanh"] | str = "linear",
    gate_per: Literal["head", "layer"] | str = "head",
    train: str = "tokens",
    dtype: torch.dtype = torch.float32,
) -> OpenGate:
    """Find the constant for frozen gates by measuring what an adapter with such gates adds.

    Args:
        model: the base model.
        task: examples to measure on; 32 of them, evenly from the whole, are looked at.
        method: `ap.Aligner` or `ap.LLaMAAdapter`, the class itself.
        share: the norm of what the adapter adds, as a share of the norm of the residual stream.
        max_length: the most tokens of an example; by default the base model's context.
        n_tokens: as the adapter's, and so are the following options; by default the method's own.
        start_layer: the first adapted layer, from zero.
        seed: draws the adapter's tokens.
        gate_function: "linear" or "tanh".
        gate_per: "head" for one gate a head, "layer" for one gate a layer.
        train: accepted so that all options of the adapter can be given; nothing is trained here.
        dtype: precision of the adapter's parameters.

    Raises AlignerProbeError where no constant gives this share, as with tanh gates, which never open beyond 1.
    """
    if not 0 < share < 1:
        raise AlignerProbeError(f"share {share}; expected between 0 and 1, for instance {SHARE}")
    tokenizer, d_vocab = own_tokenizer(model), embedding_rows(model)
    encoded = encode(task, tokenizer, max_length=max_length or model.cfg.n_ctx, d_vocab=d_vocab)
    step = max(1, len(encoded) // N_EXAMPLES)
    sequences = Sequences(encoded.sequences[::step][:N_EXAMPLES], pad_id(tokenizer, d_vocab))
    batch = {k: t.to(device_of(model)) for k, t in sequences.batch(range(len(sequences))).items()}
    options: dict[str, Any] = {
        "start_layer": start_layer,
        "seed": seed,
        "gate_function": gate_function,
        "gate_per": gate_per,
        "dtype": dtype,
    }
    if n_tokens is not None:
        options["n_tokens"] = n_tokens
    adapter = method(model, **options)
    tanh = adapter.config.gate_function == "tanh"
    gate = FIRST_GUESS
    for _ in range(ROUNDS):
        if tanh and gate >= 1:
            raise AlignerProbeError(
                f"tanh gates end at 1, where the tokens add less than {share:.0%}; take linear ones"
            )
        adapter.gates.data.fill_(math.atanh(gate) if tanh else gate)
        measured = added_share(adapter, batch["input_ids"], batch["attention_mask"].bool())
        if not math.isfinite(measured) or measured == 0:
            break
        if abs(measured / share - 1) < PRECISION:
            return OpenGate(adapter.gates[0, 0].item(), share, measured, int(batch["attention_mask"].sum()))
        # What is added grows nearly in proportion.
        gate *= share / measured
    raise AlignerProbeError(
        f"no gate makes the tokens add {share:.0%} of the residual norm (at {gate:g} they add {measured:.3g}); give "
        "--initial-gate (initial_gate=)"
    )


def added_share(adapter: Aligner | LLaMAAdapter, ids: Tensor, there: Bool[Tensor, "batch pos"]) -> float:
    """The median of added norm / residual norm over real positions and adapted layers, with the adapter attached."""
    model = adapter.model
    residual: dict[int, Float[Tensor, " positions"]] = {}
    before: dict[int, Tensor] = {}
    shares: list[Float[Tensor, " positions"]] = []

    def see_residual(layer: int) -> Callable[..., None]:
        def see(tensor: Tensor, hook: HookPoint) -> None:
            residual[layer] = tensor[there].float().norm(dim=-1)

        return see

    def see_heads(layer: int) -> Callable[..., None]:
        def see(z: Tensor, hook: HookPoint) -> None:
            before[layer] = z

        return see

    def compare(layer: int) -> Callable[..., None]:
        def see(z: Tensor, hook: HookPoint) -> None:
            heads = (z - before.pop(layer)).flatten(2)[there]
            output = model.blocks[layer].attn.o.original_component
            added = (output(heads) - output(torch.zeros_like(heads[:1]))).float()
            shares.append(added.norm(dim=-1) / residual.pop(layer))

        return see

    def at(name: str, see: Callable[[int], Callable[..., None]]) -> list[tuple[str, Callable[..., None]]]:
        return [(f"blocks.{layer}.{name}", see(layer)) for layer in adapter.layers]

    first = at("hook_in", see_residual) + at("attn.hook_z", see_heads)
    # Hooked after the adapter, so called after it.
    last = at("attn.hook_z", compare)
    with (
        torch.no_grad(),
        using(threads_for(model)),
        model.hooks(fwd_hooks=first),
        adapter.attached(),
        model.hooks(fwd_hooks=last),
    ):
        model(ids, attention_mask=there.long(), use_cache=False)
    return torch.cat(shares).median().item()
