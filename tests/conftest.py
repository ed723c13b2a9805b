"""Fixtures. The package is imported inside them, so that jaxtyping's hook comes first."""

import gc
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

# Several test processes with a thread a core each would wait for one another; read when numerical libraries load.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test asks a network, also where a name could be one of a hub.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import typechecking

# Garbage is looked for ten times more rarely than by default; pytest_collection_finish says what that saves.
gc.set_threshold(7000, 20, 20)

typechecking.read_bytecode_of_other_packages()
typechecking.make_each_check_once()
typechecking.leave_signatures_without_arrays_to_beartype()

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("ALIGNER_PROBE_DATA", ROOT.parent / "shared"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--shuffle",
        type=int,
        metavar="SEED",
        help="run the test files, and the tests in each file, in a random order that is drawn by SEED",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --shuffle: a file's tests stay together, so that its fixtures are made once."""
    seed = config.getoption("--shuffle")
    if seed is None:
        return
    draw = random.Random(seed)
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    names = list(files)
    draw.shuffle(names)
    for tests in files.values():
        draw.shuffle(tests)
    items[:] = [item for name in names for item in files[name]]


def pytest_collection_finish() -> None:
    """Set what is imported aside, so that the garbage collector looks at what tests leave behind alone.

    The modules that a test process imports hold a million objects, which each full collection would look through: a
    fifth of the time of the imports themselves, and a tenth of the tests'.
    """
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str | None:
    seed = config.getoption("--shuffle")
    return None if seed is None else f"shuffled: --shuffle {seed}"


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """A test leaves the number of threads, the default dtype and the gradient mode of torch as they were before it.

    Another number of threads changes the last bits of all that later tests compute.
    """
    before = _torch_settings()
    yield
    after = _torch_settings()
    if before is not None and after != before:
        torch = sys.modules["torch"]
        torch.set_num_threads(before[0])
        torch.set_default_dtype(before[1])
        torch.set_grad_enabled(before[2])
        pytest.fail(f"threads, default dtype and gradient mode are {after} after the test; they were {before}")


def _torch_settings() -> tuple | None:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_num_threads"):
        return None
    return torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()


@pytest.fixture(autouse=True)
def shared_bases_are_left_as_they_were() -> Iterator[None]:
    """A base of `tiny.frozen` has the same parameters, modes and hooks after each test."""
    yield
    if "tiny" in sys.modules:
        sys.modules["tiny"].check_frozen()


@pytest.fixture(autouse=True)
def data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """One data folder for tests and the commands they start, wherever they start them."""
    monkeypatch.setenv("ALIGNER_PROBE_DATA", str(DATA))


@pytest.fixture(scope="session")
def published() -> Path:
    """A local copy of the authors' aligner_weights/."""
    folder = DATA / "published"
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set ALIGNER_PROBE_DATA to a folder with the authors' weights in published/")
    return folder


@pytest.fixture(scope="session")
def authors(published: Path) -> dict:
    """The readable published checkpoints by name, for instance "metamath-10-7b"."""
    from aligner_probe.checkpoints import list_published, load_checkpoint

    return {
        file.name: load_checkpoint(published / file.path)
        for file in list_published()
        if file.is_checkpoint and (published / file.path).is_file()
    }


def small_model(name: str) -> Path:
    """The folder of a small real model; the test is skipped where there is none."""
    folder = DATA / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set ALIGNER_PROBE_DATA to a folder with models/ in it")
    return folder


@pytest.fixture(params=["stories260K", "TinyStories-656K"])
def real_tokenizer(request: pytest.FixtureRequest):
    """Those of two small models of stories."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(small_model(request.param))


def real_model() -> Path:
    """The folder of a real chat model (SmolLM2-135M-Instruct); the test is skipped where there is none."""
    named = os.environ.get("ALIGNER_PROBE_REAL_MODEL")
    if not named or not (Path(named) / "config.json").is_file():
        pytest.skip("set ALIGNER_PROBE_REAL_MODEL to a folder with SmolLM2-135M-Instruct in it")
    return Path(named)
