"""A device that is none: tensors "elsewhere" compute on the CPU, and refuse to meet tensors that are on the CPU.

    with Elsewhere():
        model = load_model(plain, device="meta")     # its numbers are there; torch calls the device "meta"
        fit(model, adapter, task)                    # raises where a tensor was made on the wrong device

It stands in for a GPU where there is none. Inside the block, whatever is made on the device "meta" or moved there has
its values and lives "elsewhere". An operation that mixes such a tensor with one on the CPU raises `WrongDevice`, unless
CUDA allows the mixture: copies from one device to the other, indices on the CPU, and numbers without dimensions in
pointwise operations. A generator of random numbers has to be on the device that it draws for. `numpy()` is refused.
"""

from collections import Counter
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_iter, tree_map

#: The name by which torch, and so the package, knows the device. Autograd knows it without its threads.
NAME = "meta"
ELSEWHERE, CPU = torch.device(NAME), torch.device("cpu")
#: Copies from one device to another.
COPIES = {"aten::copy_", "aten::_to_copy", "aten::_copy_from"}
#: Operations of which some arguments, by position, may be on the CPU: indices, and the number to fill with.
INDICES = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
MAY_BE_HERE = dict.fromkeys(INDICES, 1) | dict.fromkeys(("aten::masked_fill", "aten::masked_fill_"), 2)
#: What a kernel choice answers: the way of attention that is made of plain operations.
ATTENTION_OF_PLAIN_OPERATIONS = 0


class WrongDevice(RuntimeError):
    """Tensors of two devices met in one operation."""


class There(torch.Tensor):
    """A tensor elsewhere; `values_here` has its values, on the CPU."""

    values_here: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> "There":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.size(),
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=ELSEWHERE,
            requires_grad=False,
        )

    def __init__(self, numbers: torch.Tensor):
        self.values_here = numbers

    def __repr__(self, **_: Any) -> str:
        return f"There({self.values_here})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        # As torch.load(map_location="cpu") gives it.
        return self.values_here.detach().__reduce_ex__(protocol)

    def __tensor_flatten__(self) -> Any:
        return ["values_here"], None

    @staticmethod
    def __tensor_unflatten__(inner: Any, *_: Any) -> "There":
        return There(inner["values_here"])

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (torch.Tensor.data_ptr, torch.Tensor.tolist):  # which torch refuses to subclasses
            return function(args[0].values_here)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Literals(TorchFunctionMode):
    """`torch.tensor` makes its tensor below all dispatch, so it is made on the CPU first."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        if function in (torch.tensor, torch.as_tensor, torch.asarray) and device and torch.device(device).type == NAME:
            return function(*args, **(kwargs | {"device": CPU})).to(ELSEWHERE)
        return function(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """Inside, the device "meta" is elsewhere. `met` counts the operations that had a tensor from there."""

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[str] = Counter()
        self._literals = _Literals()
        known = torch.is_autocast_enabled
        # torch knows no autocast on "meta"; on a GPU it is off.
        self._autocast = patch("torch.is_autocast_enabled", lambda kind="cuda": kind != NAME and known(kind))

    def __enter__(self) -> "Elsewhere":
        self._autocast.start()
        self._literals.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._literals.__exit__(*error)
        self._autocast.stop()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(isinstance(each, There) for each in tree_iter((args, kwargs))):
            self.met[function._schema.name] += 1
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = function._schema.name
    if name == "aten::_fused_sdp_choice":
        return ATTENTION_OF_PLAIN_OPERATIONS
    asked = kwargs.get("device")
    made_there = asked is not None and torch.device(asked).type == NAME
    has_some = any(isinstance(each, There) for each in tree_iter((args, kwargs)))
    if not (made_there or has_some):
        return function(*args, **kwargs)
    _refuse_mixtures(function, name, args, kwargs)
    stays = made_there or asked is None
    generator = kwargs.get("generator")
    if stays and generator is not None and generator.device.type != NAME:
        raise WrongDevice(f"{name} draws elsewhere from a generator on the CPU")
    on_cpu = {key: CPU if key == "device" else value for key, value in kwargs.items()}
    values, options = tree_map(lambda each: each.values_here if isinstance(each, There) else each, (args, on_cpu))
    result = function(*values, **options)
    if not stays:
        return result
    wrapped = tree_map(lambda each: There(each) if isinstance(each, torch.Tensor) else each, result)
    return return_and_correct_aliasing(function, args, kwargs, wrapped)


def _refuse_mixtures(function: Any, name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in COPIES:
        return
    checked = [arg for index, arg in enumerate(args) if index != MAY_BE_HERE.get(name)]
    tensors = [each for each in tree_iter((checked, kwargs)) if isinstance(each, torch.Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    if any(each.device.type == NAME and not isinstance(each, There) for each in tensors):
        raise WrongDevice(f"{name} was given a tensor without values, which was neither made here nor on the CPU")
    is_pointwise = torch.Tag.pointwise in function.tags
    here = [each for each in tensors if not isinstance(each, There) and not (is_pointwise and each.dim() == 0)]
    if there and here:
        raise WrongDevice(f"{name} was given tensors on the CPU of shapes {[tuple(each.shape) for each in here]}")
    if name in INDICES and not there:
        raise WrongDevice(f"{name} was given indices from elsewhere for a tensor on the CPU")
