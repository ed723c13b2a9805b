"""What the timed benchmarks share: base models of fixed sizes, rounds of paired times, and the machine in words."""

import argparse
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

START_LAYER = 2


@dataclass(frozen=True)
class Size:
    """Sizes of a Llama of random weights, and of what it is given."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    batch: int
    positions: int
    kv_heads: int | None = None  # as many as heads
    tied: bool = False

    def __str__(self) -> str:
        return f"d_model {self.hidden}, {self.layers} layers, {self.heads} heads, vocabulary {self.vocabulary}"


SIZES = {
    "tiny": Size(64, 4, 4, 128, 256, 2, 16),  # to try a benchmark out
    "small": Size(256, 6, 8, 688, 2048, 8, 128),
    "medium": Size(1024, 8, 16, 2752, 8192, 4, 256),
    "large": Size(2048, 16, 16, 5504, 32000, 4, 512),
}


class Bases:
    """Plain Hugging Face models on the same weights, frozen, with sdpa attention."""

    def __init__(self, size: Size, device: str = "cpu", dtype: str = "float32"):
        import torch
        from transformers import LlamaConfig

        self.size, self.device, self.dtype = size, torch.device(device), getattr(torch, dtype)
        self.config = LlamaConfig(
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.kv_heads or size.heads,
            tie_word_embeddings=size.tied,
            vocab_size=size.vocabulary,
            max_position_embeddings=max(size.positions, 128),
            attn_implementation="sdpa",
            architectures=["LlamaForCausalLM"],
            dtype=dtype,
        )
        torch.manual_seed(0)
        # Made on the device in its precision: a large model would not fit into the CPU's memory in float32.
        with self.device:
            made = self._made()
        self._weights = made.state_dict()
        # Angles of the rotary embedding are in no state dict.
        self._others = {name: tensor for name, tensor in made.named_buffers() if name not in self._weights}

    def _made(self):
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_config(self.config, dtype=self.dtype)

    @property
    def n_parameters(self) -> int:
        """Parameters, with tied ones once."""
        return sum({tensor.data_ptr(): tensor.numel() for tensor in self._weights.values()}.values())

    def plain(self):
        """A model of its own on the shared weights, as all share what caches hold of them."""
        import torch

        with torch.device("meta"):
            model = self._made()
        model.load_state_dict(self._weights, assign=True)
        model.tie_weights()
        for name, tensor in self._others.items():
            module, _, leaf = name.rpartition(".")
            model.get_submodule(module)._buffers[leaf] = tensor
        return model.requires_grad_(False).eval()

    def ids(self, batch: int, positions: int):
        """Random tokens."""
        import torch

        drawn = torch.randint(0, self.size.vocabulary, (batch, positions), generator=torch.Generator().manual_seed(0))
        return drawn.to(self.device)


@dataclass
class Times:
    """One variant's seconds, one a round, and the floor's beside it."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    floor_wall: list[float] = field(default_factory=list)
    floor_cpu: list[float] = field(default_factory=list)

    def ratio(self, clock: str) -> tuple[float, float, float]:
        """Median and quartiles of the ratio to the floor beside it."""
        both = zip(getattr(self, clock), getattr(self, f"floor_{clock}"), strict=True)
        paired = [mine / its for mine, its in both]
        low, middle, high = statistics.quantiles(paired, n=4, method="inclusive") if len(paired) > 1 else paired * 3
        return middle, low, high

    def said(self) -> str:
        """Both clocks' ratios, as columns of a table."""
        return " | ".join("{:.3f} [{:.3f}-{:.3f}]".format(*self.ratio(clock)) for clock in ("wall", "cpu"))


def paired(
    names: Iterable[str], floor: str, rounds: int, run: Callable[[str], tuple[float, float]]
) -> dict[str, Times]:
    """Times of each name's run, beside one of the floor's right before or after it, by chance.

    Every round takes the names in a new random order. `run` gives wall and processor seconds.
    """
    from tqdm.auto import tqdm

    order, chance = [name for name in names if name != floor], random.Random(0)
    times = {name: Times() for name in order}
    for _ in tqdm(range(rounds), desc="rounds", leave=False):
        chance.shuffle(order)
        for name in order:
            beside = [(name, ""), (floor, "floor_")]
            chance.shuffle(beside)
            for who, prefix in beside:
                wall, cpu = run(who)
                getattr(times[name], f"{prefix}wall").append(wall)
                getattr(times[name], f"{prefix}cpu").append(cpu)
    return times


def timed(call: Callable[[], object], device: str = "cpu") -> tuple[float, float]:
    """Wall and processor seconds of a call; on a GPU, until it has finished there."""
    _wait(device)
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - cpu


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def one_thread() -> None:
    """Before torch is imported, which reads it once."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def parser(description: str, rounds: int) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark that is timed in rounds."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument(
        "--rounds", type=int, default=rounds, help="times that each variant is run (default: %(default)s)"
    )
    made.add_argument("--json", type=Path, help="write every single time there")
    return made


def write(file: Path | None, described: str, where: str, results: dict[str, Any]) -> None:
    """Write what was measured, on which machine (`where`), and every single time, if a file was asked for."""
    if file is not None:
        file.write_text(json.dumps({"described": described, "machine": where} | results, indent=1))


def machine(device: str = "cpu") -> str:
    """Processor, cores, system and versions, in words."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "transformer-lens", "peft"))
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    where = f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, of which one is used"
    if device.startswith("cuda"):
        import torch

        where = f"{torch.cuda.get_device_name(device)}; {where}"
    return (
        f"{where}; {platform.system()}; Python {platform.python_version()}, {packages}; load averages at the end {load}"
    )
