"""The documentation names every public object and every number in use, runs, and builds without a warning."""

import functools
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import ROOT

import aligner_probe as ap
from aligner_probe.probing.plan import BUDGETS
from aligner_probe.probing.verdicts.thresholds import THRESHOLDS

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)
HOWTOS = sorted((DOCS / "howto").glob("add_*.md"))
#: Pages whose blocks are run here as they stand; the others have tests of their own, which name the page.
RUN_HERE = ["add_a_scorer", "add_a_figure"]
#: How-to pages whose blocks take half a minute.
RUN_SLOWLY = ["add_a_benchmark"]
#: Guides whose blocks run in seconds, and those that train or probe.
GUIDES = ["bases_and_files", "many_adapters"]
SLOW = ["export", "published_weights", "microworld", "train_an_adapter", "probe_a_task"]
#: A fenced block: what stands behind the fence, the options of a directive, and the text.
BLOCK = re.compile(r"^```(?P<language>.*)\n(?P<options>(?::\w+:.*\n)*)\n?(?P<text>(?:.*\n)*?)^```$", re.MULTILINE)


def text_of(page):
    return page.read_text(encoding="utf-8")


def run_page(page, folder, monkeypatch, times=1):
    """Carry a page out in `folder`, block by block, each block `times` times.

    A Python block with a caption is the file of that name. Any other Python block is executed; all of a page share
    their names. Lines of a bash block that begin with `python` are run. Files that the page puts into the package are
    imported from `folder`.
    """
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (folder, ROOT, ROOT / "benchmarks"))))
    scope = {"__name__": "a_page"}
    for block in BLOCK.finditer(text_of(page)):
        language, text = block["language"].strip(), block["text"]
        caption = re.search(r"^:caption: (.*)$", block["options"], re.MULTILINE)
        if caption is not None and caption[1].endswith(", in CATALOGUE"):
            add_to_catalogue(text, monkeypatch)
        elif caption is not None:
            write_file(folder / caption[1], text, folder, monkeypatch)
        elif language == "python":
            for _ in range(times):
                exec(compile(text, page.name, "exec"), scope)
        elif language == "bash":
            lines = text.replace("\\\n", "").splitlines()
            for line in [line for line in lines if line.startswith(("python ", "aligner-probe "))]:
                for _ in range(times):
                    run_command(line, folder)


def write_file(file, text, folder, monkeypatch):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    package = file.relative_to(folder).parent
    if package.parts[:1] == ("aligner_probe",):
        name = ".".join(package.parts)
        path = importlib.import_module(name).__path__
        monkeypatch.setattr(sys.modules[name], "__path__", [*path, str(file.parent)])
        monkeypatch.delitem(sys.modules, f"{name}.{file.stem}", raising=False)


def add_to_catalogue(text, monkeypatch):
    """An entry of the catalogue of figures, as if it stood there."""
    from aligner_probe.figures import catalogue

    entry = eval(text.strip().rstrip(","), vars(catalogue))
    monkeypatch.setattr(catalogue, "CATALOGUE", (*catalogue.CATALOGUE, entry))


def run_command(line, folder):
    program, *arguments = shlex.split(line)
    begin = [sys.executable] if program == "python" else [sys.executable, "-m", "aligner_probe"]
    done = subprocess.run([*begin, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("name", [*RUN_HERE, *(pytest.param(name, marks=pytest.mark.slow) for name in RUN_SLOWLY)])
def test_a_how_to_runs_as_printed(name, tmp_path, monkeypatch):
    run_page(DOCS / "howto" / f"{name}.md", tmp_path, monkeypatch)


@pytest.mark.parametrize("name", [*GUIDES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_a_guide_runs_as_printed(name, authors, tmp_path, monkeypatch, capsys):
    run_page(DOCS / f"{name}.md", tmp_path, monkeypatch)
    if name == "published_weights":
        said = capsys.readouterr().out
        assert "shared_start_rounding" in said
        assert "+0.954" in said


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bases_and_files", "published_weights"])
def test_every_block_of_a_guide_runs_twice(name, authors, tmp_path, monkeypatch):
    run_page(DOCS / f"{name}.md", tmp_path, monkeypatch, times=2)


def test_the_first_verdict_has_the_blocks_of_the_readme():
    """Those are run by the README's tests."""
    blocks = [block[0] for block in BLOCK.finditer(text_of(DOCS / "first_verdict.md"))]
    readme = text_of(ROOT / "README.md")
    assert len(blocks) == 5
    assert all(block in readme for block in blocks)


@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.stem)
def test_a_test_runs_every_how_to(page):
    assert any(page.stem in text_of(file) for file in (ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """Links to files, and to headings in them; the net is not asked."""
    text = re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = page if not path else page.parent / path
        if page.is_relative_to(DOCS) and Path(path).parts[:1] == ("notebooks",):
            file = ROOT / f"{path}.ipynb"  # copied there when the documentation is built
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in headings(file), f"{page.name}: {target}"


def headings(page):
    """The anchors of a page, as GitHub and MyST make them."""
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_page_is_in_a_table_of_contents():
    listed = {"index"}
    for page in PAGES:
        for tree in re.findall(r"^```\{toctree\}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE):
            names = [line.strip() for line in tree.splitlines() if line.strip() and not line.startswith(":")]
            for name in names:
                found = page.parent.glob(f"{name}.md") if "*" in name else [page.parent / name]
                listed |= {one.relative_to(DOCS).with_suffix("").as_posix() for one in found}
    assert {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES} <= listed


def test_each_term_of_the_glossary_is_explained_once():
    terms = re.findall(r"^(\S.*)\n  \S", text_of(DOCS / "glossary.md"), re.MULTILINE)
    assert len(terms) > 40
    assert terms == sorted(set(terms), key=lambda term: term.lower().replace("-", " "))


EXAMPLES = sorted((DOCS / "examples").glob("*.py"))
EXAMPLES_MARKED = [
    pytest.param(file, marks=pytest.mark.slow if file.stem in ("probe_task", "ProbeResult") else ())
    for file in EXAMPLES
]
#: Needs a download; is only warned about; or is what a how-to page makes a method or an arm of.
WITHOUT_EXAMPLE = {
    "download_published", "AlignerProbeWarning", "Adapter", "AdapterConfig", "LayeredConfig", "register_adapter",
    "Arm", "register_arm",
}  # fmt: skip


@pytest.mark.parametrize("file", EXAMPLES_MARKED, ids=lambda file: file.stem)
def test_an_example_of_the_api_pages_runs(file, authors, small_world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = text_of(file)
    assert f"ap.{file.stem}" in text
    exec(compile(text, file.name, "exec"), {})


@pytest.fixture(scope="module")
def small_world():
    """The micro-world loaded once for all examples, most of which need it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aligner_probe.models.load_model", functools.cache(ap.load_model))
        yield


def test_every_public_name_has_an_example():
    assert {file.stem for file in EXAMPLES} == set(ap.__all__) - WITHOUT_EXAMPLE


def test_every_public_name_has_an_api_page():
    listed = set(re.findall(r"^   (\w+)$", text_of(DOCS / "api.md"), re.MULTILINE))
    assert listed == set(ap.__all__)


def test_the_verdict_page_states_the_thresholds_in_use():
    page = text_of(DOCS / "verdict.md")
    for name, sentence in {
        "F_cut": "F is compared with the cut {}",
        "R_soft_cut": "R_soft with the cut {}",
        "R1_cut": "(R1, where it takes its place, with {})",
        "late_gain": "the last 40 % of its steps gain less than {} in score",
        "learned": "validation score {} or more",
        "least_gap": "reference minus floor is above {}",
        "content_left": "the reference itself has at least {} of them right",
        "prompting_works": "follows it in at least {} of the cases",
        "resolution": "a difference of {} in R",
        "power": "with power {}",
    }.items():
        wanted = sentence.format(f"{getattr(THRESHOLDS, name):g}".removeprefix("0"))
        assert wanted in " ".join(page.split()), name
    low, high = (f"{1 + sign * THRESHOLDS.agreement:g}".removeprefix("0") for sign in (-1, 1))
    assert f"recovers between {low} and {high} of its gap" in " ".join(page.split())


def test_the_verdict_page_lists_the_budgets():
    assert set(re.findall(r"^\| `(\w+)` \|", text_of(DOCS / "verdict.md"), re.MULTILINE)) == set(BUDGETS)


def test_the_pages_list_what_there_is():
    """Row formats, scorers, methods and architectures, as the code has them."""
    from aligner_probe.commands.train import parser
    from aligner_probe.families import FAMILIES
    from aligner_probe.tasks.formats import TASK_FORMATS

    files = text_of(DOCS / "bases_and_files.md")
    assert all(f"| {one.name} |" in files for one in TASK_FORMATS)
    for architecture in FAMILIES:
        name = architecture.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
        assert re.sub(r"\W", "", name).lower() in re.sub(r"[^a-z0-9]", "", files.lower()), architecture
    training = text_of(DOCS / "train_an_adapter.md")
    [methods] = [action.choices for action in parser()._actions if action.dest == "method"]
    assert set(re.findall(r"^\| `(\w+)` \| `ap\.", training, re.MULTILINE)) == set(methods)


def test_numbers_of_the_published_weights_are_ours(authors):
    """The table of findings, number by number."""
    pair = ap.compare_checkpoints(authors["alpaca-1-7b"], authors["metamath-1-7b"])
    large = [band for band in pair.equality.bands if band.low >= 1]
    gates = {
        name: ap.gate_statistics(authors[f"{name}-7b"])
        for name in ("alpaca-1", "metamath-1", "metamath-10", "metamath-100")
    }
    cosines = [
        ap.centre_test(authors["metamath-1-7b"], authors[many]).twin_cosine
        for many in ("metamath-10-7b", "metamath-100-7b")
    ]
    page = text_of(DOCS / "published_weights.md")
    for number in [
        f"{pair.equality.n_equal} are equal",
        f"all {sum(band.n for band in large)} from",
        *(f"{result.spearman.rho:.3f}".lstrip("0") for result in gates.values()),
        *(f"{result.spearman_upper.rho:+.2f}".replace("0.", ".").replace("-", "−") for result in gates.values()),
        f"{gates['alpaca-1'].at_powers_of_two} of 960",
        f"where {gates['alpaca-1'].expected_at_powers_of_two:.0f} are",
        f"cosine {cosines[0]:.3f} for MetaMath's ten, {cosines[1]:.3f} for its hundred".replace("0.", "."),
    ]:
        assert number in page, number


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    """Notebooks are left as they are here: tests of their own run them."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [*command, "-D", "nb_execution_mode=off", "-d", tmp_path / "doctrees", DOCS, tmp_path / "html"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "html" / "verdict.html").read_text(encoding="utf-8")
    assert "The six outcomes" in page
    assert not re.search(r'(?:src|href)="https?://[^"]*\.(?:js|css)', page), "a page fetches something"
