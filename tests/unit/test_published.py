"""The authors' files: the list, names, downloads checked by hash (from a server on the loopback)."""

import functools
import hashlib
import http.server
import threading
from dataclasses import replace

import pytest
from builders import checkpoint, lit_aligner_state, save_pth
from conftest import DATA

from aligner_probe.checkpoints import list_published, load_checkpoint
from aligner_probe.checkpoints import published as module
from aligner_probe.errors import AlignerProbeError


def test_the_list():
    files = {file.name: file for file in list_published()}
    assert len(files) == 10
    assert sum(file.is_checkpoint for file in files.values()) == 9
    dpo, math = files["beaver-dpo-1-7b"], files["metamath-300-7b"]
    assert (dpo.data_set, dpo.stage, dpo.n_tokens, dpo.validation_loss) == ("Beaver", "DPO", 1, None)
    assert (math.base_model, math.n_tokens, math.validation_loss) == ("LLaMA-2 7B", 300, 0.6130)
    assert files["alpaca-10-13b"].base_model == "LLaMA-2 13B"
    assert not files["alpaca-10-7b"].is_checkpoint


def test_the_list_is_the_manifest():
    manifest = DATA / "published" / "MANIFEST.tsv"
    if not manifest.is_file():
        pytest.skip(f"no {manifest}; set ALIGNER_PROBE_DATA to a folder with the authors' weights in published/")
    rows = [line.split("\t") for line in manifest.read_text().splitlines() if not line.startswith("#")][1:]
    assert [(f.path, str(f.n_bytes), f.sha256) for f in list_published()] == [tuple(row) for row in rows]


def test_local_copies_have_the_hashes_listed(published):
    for file in list_published():
        path = published / file.path
        if path.is_file():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256


def test_a_forged_local_copy_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNER_PROBE_DATA", str(tmp_path))
    file = next(f for f in list_published() if f.name == "alpaca-1-7b")
    save_pth(lit_aligner_state(checkpoint()), tmp_path / "published" / file.path)
    with pytest.raises(AlignerProbeError, match="not the file the authors published"):
        load_checkpoint("published:alpaca-1-7b")


def test_a_renamed_file_is_known_by_its_content(published, tmp_path):
    file = next(f for f in list_published() if f.name == "metamath-1-7b")
    path = tmp_path / "x"
    path.write_bytes((published / file.path).read_bytes())
    assert load_checkpoint(path).label == "Aligner-1 · MetaMath · LLaMA-2 7B"


@pytest.fixture
def server(tmp_path):
    """Serves tmp_path/site; counts requests."""
    site = tmp_path / "site"
    site.mkdir()
    seen = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            super().do_GET()

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=site)) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield site, f"http://127.0.0.1:{httpd.server_port}", seen
        httpd.shutdown()


@pytest.fixture
def listed(server, monkeypatch):
    """A list of one file, which the server has."""
    site, _, _ = server
    original = list_published()[0]
    path = save_pth(lit_aligner_state(checkpoint()), site / original.commit / "aligner_weights" / original.path)
    file = replace(original, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setattr(module, "list_published", lambda: (file,))
    return file, path


def test_download_once_and_check(server, listed, tmp_path):
    _, url, seen = server
    file, _ = listed
    for _ in range(2):
        [path] = module.download_published(folder=tmp_path / "cache", source=url)
        assert load_checkpoint(path).d_model == 64
    assert len(seen) == 1
    assert path == tmp_path / "cache" / "aligner_weights" / file.path


def test_download_of_something_else_is_refused(server, listed, tmp_path):
    _, url, _ = server
    _, path = listed
    path.write_bytes(path.read_bytes() + b"!")
    with pytest.raises(AlignerProbeError, match="could not download"):
        module.download_published(folder=tmp_path / "cache", source=url)
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_download_errors(server, listed, tmp_path):
    with pytest.raises(AlignerProbeError, match="no published checkpoint is named 'x'"):
        module.download_published(["x"])
    with pytest.raises(AlignerProbeError, match="ALIGNER_PROBE_DATA"):
        module.download_published(folder=tmp_path / "cache", source="http://127.0.0.1:9")
