"""How `make docs` builds the documentation: Sphinx, MyST Markdown, executed notebooks, one API page per public object.

Warnings are errors, and nothing is fetched while building. Notebooks are stored without outputs; they are executed here
and their outputs are kept between builds. A notebook whose data are not on this machine is shown without outputs, and
so is one that needs a base model from the Hugging Face hub.
"""

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import aligner_probe  # noqa: E402

project = "aligner_probe"
author = "the aligner_probe developers"
version = release = aligner_probe.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "_static", "_templates", "examples"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"aligner_probe {version}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]


myst_enable_extensions = ["deflist", "colon_fence"]
myst_heading_anchors = 3

# Notebooks live in notebooks/ and are copied here, since Sphinx reads one folder only.
NOTEBOOKS = Path(__file__).parent / "notebooks"
#: Folders of ALIGNER_PROBE_DATA that a notebook reads.
NEEDS = {"01_published_weights": ["published"]}
#: Notebooks that need a base model from the hub, which is not fetched here.
OF_THE_HUB = ["05_a_chat_model"]
DATA = Path(os.environ.get("ALIGNER_PROBE_DATA", ROOT.parent / "shared")).resolve()
NOTEBOOKS.mkdir(exist_ok=True)
for notebook in (ROOT / "notebooks").glob("*.ipynb"):
    shutil.copyfile(notebook, NOTEBOOKS / notebook.name)
os.environ["ALIGNER_PROBE_DATA"] = str(DATA)

nb_execution_mode = "cache"
nb_execution_timeout = 900
nb_execution_raise_on_error = True
MISSING = [name for name, folders in NEEDS.items() if not all((DATA / folder).is_dir() for folder in folders)]
nb_execution_excludepatterns = [f"notebooks/{name}.ipynb" for name in (*MISSING, *OF_THE_HUB)]
nb_merge_streams = True

autosummary_generate = True
# Every public name with an example shows it; `tests/commands/test_docs.py` runs them.
autosummary_context = {"examples": {file.stem for file in (Path(__file__).parent / "examples").glob("*.py")}}
autodoc_member_order = "bysource"
# Types stand in the signature, one parameter a line where the signature is long.
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
autodoc_default_options = {"members": True, "show-inheritance": False}
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
