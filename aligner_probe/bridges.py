"""What this project remembers about a TransformerBridge, kept beside the bridge and not inside it.

    state_of(bridge).attached      # the adapters that are attached to it
    state_of(bridge).tokenizer     # the tokenizer that `tokenizers.py` put there
    state_of(bridge).fingerprint   # the hash of its weights, with what it was computed from

A bridge belongs to TransformerLens and to the user, so nothing of this project is written into its `__dict__`. The
state lives as long as the bridge. A copy of a bridge (`copy.deepcopy`) is another bridge: no adapter counts
as attached to it, and its tokenizer and its weights are looked at anew.
"""

from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from transformer_lens.model_bridge import TransformerBridge

#: Stands for a tokenizer that nobody has looked at yet; None says that the bridge was built without one.
NOT_SEEN = object()


@dataclass(frozen=True)
class KnownFingerprint:
    """The fingerprint of some weights. It holds as long as each tensor is the same and was not written into.

    `weights` has one (name, address, version counter) for each tensor; `value` is the SHA-256 as hexadecimal text.
    """

    weights: list[tuple[str, int, int]]
    value: str


@dataclass(frozen=True)
class StoredFingerprint:
    """The fingerprint of a base's plain weights as they are stored, for a base that was read in float16 or quantised.

    `as_read` is the hash of the weights as they were read. It tells whether the bridge still has these weights.
    """

    as_read: str
    value: str


@dataclass(eq=False)
class BridgeState:
    """What is remembered about one bridge.

    `attached` has the attached adapters, the first one first. `tokenizer` is the tokenizer that is known to be the
    right one, None where the bridge was built without one, or `NOT_SEEN`. `as_stored` is set for a base in float16,
    whose fingerprint it is; `source` for one that `load_model` quantised.
    """

    attached: list[Any] = field(default_factory=list)
    tokenizer: Any = NOT_SEEN
    fingerprint: KnownFingerprint | None = None
    as_stored: StoredFingerprint | None = None
    source: StoredFingerprint | None = None


_states: WeakKeyDictionary[TransformerBridge, BridgeState] = WeakKeyDictionary()


def state_of(bridge: TransformerBridge) -> BridgeState:
    """The state of a bridge: always the same object for the same bridge."""
    state = _states.get(bridge)
    if state is None:
        state = _states[bridge] = BridgeState()
    return state
