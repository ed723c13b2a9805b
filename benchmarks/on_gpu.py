"""Check the package on a GPU and time it there, in one go of at most eight minutes; the result is a JSON file.

    benchmarks/on_gpu.sh [--device cuda] [--size full|tiny] [--seconds 480] [--only numerics,speed] [--out FILE]

The parts, in this order: numerics (against the CPU, and bfloat16 against float32), training (resumed, and generation
with a cache), hooks (every hook point with the fast attention), probe (of the micro-world), speed (steps and
generations of Llamas of 135 million, 1 and 7 billion random weights in bfloat16). gpu_checks.py and gpu_speed.py have
them. The file is written after each part, so what was measured is there however the script ends. The exit code is 1
where a check failed or a part ended in an error.
"""

import argparse
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpu_checks
import gpu_speed
from setting import START_LAYER

OUT = Path(__file__).parent / "gpu.json"
SCHEMA = 1
PARTS = ("numerics", "training", "hooks", "probe", "speed")
PACKAGES = ("torch", "transformers", "transformer-lens", "peft")
#: By size: steps of three sorts of trainings, items of the probe, and tokens of a generation.
LENGTHS = {
    "full": {"numerics": 12, "training": 40, "probe": 40, "items": 24, "new_tokens": 64},
    "tiny": {"numerics": 3, "training": 4, "probe": 2, "items": 4, "new_tokens": 4},
}


def configuration(device: str, size: str, seconds: float) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    import torch

    on_card = torch.device(device).type == "cuda"
    return {
        "schema": SCHEMA,
        "date": time.strftime("%Y-%m-%d"),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if on_card else platform.processor() or platform.machine(),
        "device_bytes": torch.cuda.get_device_properties(device).total_memory if on_card else None,
        "cuda": torch.version.cuda,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "size": size,
        "seconds": seconds,
        "lengths": LENGTHS[size],
        "seed": gpu_checks.SEED,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "models": {name: str(its) for name, its in gpu_speed.SIZES[size].items()},
        "start_layer": START_LAYER,
    }


def parts(device: str, size: str, left: Callable[[], float]) -> dict[str, Callable[[], Any]]:
    """How each part is made."""
    n = LENGTHS[size]

    def checks(found) -> list[dict[str, Any]]:
        return [one.to_dict() for one in found]

    return {
        "numerics": lambda: checks(gpu_checks.numerics(device, n["numerics"])),
        "training": lambda: checks(gpu_checks.training(device, n["training"])),
        "hooks": lambda: checks(gpu_checks.hook_points(device)),
        "probe": lambda: gpu_checks.probe(device, n["probe"], n["items"]),
        "speed": lambda: gpu_speed.speed(device, size, left(), n["new_tokens"]),
    }


def run(device: str, size: str, seconds: float, only: tuple[str, ...], out: Path) -> dict[str, Any]:
    """Make the parts and write the file after each."""
    began = time.monotonic()
    result: dict[str, Any] = {"configuration": configuration(device, size, seconds), "took": {}, "errors": {}}
    for name, make in parts(device, size, lambda: seconds - (time.monotonic() - began)).items():
        if name not in only:
            continue
        start = time.monotonic()
        try:
            result[name] = make()
        except Exception as error:  # the other parts are still worth their time
            traceback.print_exc()
            result["errors"][name] = f"{type(error).__name__}: {error}"
        result["took"][name] = round(time.monotonic() - start, 1)
        result["passed"] = not result["errors"] and not failures(result)
        out.write_text(json.dumps(result, indent=1) + "\n")
        print(f"{name}: {result['took'][name]} s", flush=True)
    return result


def failures(result: dict[str, Any]) -> list[str]:
    """Checks that failed, in words."""
    checks = [one for part in ("numerics", "training", "hooks") for one in result.get(part, ())]
    return [f"{one['name']}: {one['value']:.3g}, at most {one['bound']:g}" for one in checks if not one["passed"]]


#: Fields of the rows by part, with their types.
CONFIGURATION = {"device_name": str, "seed": int, "versions": dict, "models": dict, "lengths": dict, "date": str}
CHECK = {"name": str, "value": float, "bound": float, "passed": bool}
PROBE = {"task": str, "steps": int, "verdict": str, "reason": str, "runs": int, "together": int}
ROW = {"model": str, "n_parameters": int, "dtype": str, "positions": int, "batch": int, "variant": str} | {
    "largest_batch": int
}
TIMED = {"n_trained": int, "peak_bytes": int, "step": dict, "token": dict, "new_tokens": int}
TIMES = {"ms": float, "ratio": list, "rounds": int}


def faults(result: dict[str, Any]) -> list[str]:
    """What a result lacks or has in another form than its schema says; a file of another schema has only that fault."""
    made = result.get("configuration", {})
    if made.get("schema") != SCHEMA:
        return [f"schema {made.get('schema')!r}, not {SCHEMA}"]
    found = _wrong("configuration", made, CONFIGURATION)
    for part in ("numerics", "training", "hooks"):
        for index, row in enumerate(result.get(part, ())):
            found += _wrong(f"{part} {index}", row, CHECK)
    if "probe" in result:
        found += _wrong("probe", result["probe"], PROBE)
    for index, row in enumerate(result.get("speed", ())):
        fits = row.get("batch", 0) > 0
        found += _wrong(f"speed {index}", row, ROW | TIMED if fits else ROW)
        for what in ("step", "token"):
            found += _wrong(f"speed {index} {what}", row.get(what, {}), TIMES) if fits else []
    return found + [f"no {part}" for part in PARTS if part not in result and part not in result.get("errors", {})]


def _wrong(where: str, row: dict[str, Any], fields: dict[str, type]) -> list[str]:
    missing = [f"{where} has no {key}" for key in fields if key not in row]
    typed = [key for key, kind in fields.items() if key in row and not isinstance(row[key], kind)]
    return missing + [f"{where}: {key} is {row[key]!r}, no {fields[key].__name__}" for key in typed]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="default: %(default)s")
    parser.add_argument("--size", choices=LENGTHS, default="full", help="tiny: to try the script out")
    parser.add_argument("--seconds", type=float, default=480.0, help="in which all is made (default: %(default)s)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas (default: all)")
    parser.add_argument("--out", type=Path, default=OUT, help="the file (default: gpu.json beside this script)")
    options = parser.parse_args()
    only = tuple(options.only.split(","))
    if unknown := [name for name in only if name not in PARTS]:
        parser.error(f"--only: there is no part {unknown[0]!r}; there are {', '.join(PARTS)}")
    import torch

    if torch.device(options.device).type == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no CUDA device here; --device cpu --size tiny tries the script out")
    torch.set_float32_matmul_precision("highest")
    result = run(options.device, options.size, options.seconds, only, options.out)
    print(gpu_speed.table(result.get("speed", [])))
    for said in (*failures(result), *(f"{part}: {why}" for part, why in result["errors"].items())):
        print(f"FAILED {said}")
    return 0 if result.get("passed") else 1


if __name__ == "__main__":
    sys.exit(main())
