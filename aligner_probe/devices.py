"""Where the weights of a base model are: all of them on one device, or the model is refused."""

from torch import nn

from aligner_probe.errors import AlignerProbeError


def check_one_device(model: nn.Module) -> None:
    """Raise AlignerProbeError for a model whose parameters are on several devices, or partly on none.

    A `device_map` over several GPUs does that, and so does one that offloads: what is kept on a disk or in the memory
    of the CPU until it is needed is on the device "meta". An adapter's parameters are on one device, and its hooks add
    to tensors of every layer.
    """
    devices = sorted({str(parameter.device) for parameter in model.parameters()})
    if len(devices) > 1:
        raise AlignerProbeError(
            f"this model has weights on {', '.join(devices)}; expected all of them on one device: load it without "
            'device_map, or with one device for all of it, as in device_map={"": "cuda:0"}'
        )
