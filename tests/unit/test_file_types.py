"""Files that are not read are named, with the command that turns them into JSONL, and that command is run."""

import bz2
import gzip
import json
import lzma
import pickle
import re
import shlex
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import load_task, sources

ROWS = [{"prompt": "Say 007, please", "completion": "NA"}, {"prompt": 'A "cat"\nor\tnot', "completion": " été "}]
FRAME = pd.DataFrame(ROWS)
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def refused(path):
    with pytest.raises(AlignerProbeError) as caught:
        load_task(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    return str(caught.value)


@pytest.mark.parametrize("name", ["rows", "it's $mine", "rows.jsonl"])
@pytest.mark.parametrize(
    ("kind", "ending", "write"),
    [
        ("an Arrow (Feather) file", ".arrow", lambda path: FRAME.to_feather(path, compression="uncompressed")),
    ],
)
def test_the_command_that_is_named_makes_rows_that_are_read(tmp_path, kind, ending, write, name):
    path = tmp_path / f"{name}{ending}"
    write(path)
    before = path.read_bytes()
    said = refused(path)
    assert f"is {kind}; expected JSONL (one JSON object a line), CSV or Parquet" in said
    _, command = said.split("Turn it into JSONL: ")
    # As a shell would take it apart; in this process, since pandas takes long to import.
    python, option, code = shlex.split(command)
    assert (python, option) == ("python", "-c")
    exec(code, {})
    [made] = [file for file in tmp_path.iterdir() if file != path]
    assert path.read_bytes() == before
    task = load_task(made)
    assert [{"prompt": e.prompt, "completion": e.completion} for e in task.examples] == ROWS


def zipped(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.jsonl", JSONL)


def workbook(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")


def gguf(path):
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (gguf, "a GGUF file, which is a model and no data.*--model"),
        (lambda path: save_file({"w": torch.zeros(3)}, path), "a safetensors file, which is a model.*--model"),
        (lambda path: torch.save({"w": torch.zeros(3)}, path), r"a file of torch\.save.*--model"),
        (lambda path: path.write_bytes(gzip.compress(JSONL)), r"compressed \(gzip\).*gunzip -k"),
        (lambda path: path.write_bytes(bz2.compress(JSONL)), r"compressed \(bzip2\).*bunzip2 -k"),
        (lambda path: path.write_bytes(lzma.compress(JSONL)), r"compressed \(xz\).*unxz -k"),
        (lambda path: path.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(20)), r"compressed \(Zstandard\).*unzstd"),
        (zipped, "a ZIP archive.*unzip"),
        (workbook, r"an Excel workbook.*pd\.read_excel"),
        (lambda path: path.write_bytes(pickle.dumps(ROWS)), r"a pickled Python object.*json\.dumps"),
        (lambda path: path.write_bytes(b"\xff\xff\xff\xff" + bytes(60)), "an Arrow stream.*Dataset.from_file"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "a NumPy array"),
        (lambda path: path.write_bytes(b"SQLite format 3\x00" + bytes(60)), "an SQLite database"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid x\n"), "git lfs pull"),
        (lambda path: path.write_text("<!DOCTYPE html>\n<html></html>"), "a web page.*/resolve/"),
        (lambda path: path.write_text(json.dumps(ROWS[0], indent=1)), r"JSON over several lines.*jq -c \."),
        (lambda path: path.write_text(f"{ROWS[0]!r}\n"), "single quotes.*literal_eval"),
    ],
)
def test_other_files_are_named_with_a_way_on(tmp_path, write, says):
    path = tmp_path / "rows.jsonl"
    write(path)
    assert re.search(says, refused(path))


def test_a_model_is_named_however_large_it_is(tmp_path, monkeypatch):
    path = tmp_path / "model.gguf"
    gguf(path)
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 30)
    assert "--model" in refused(path)


@pytest.mark.parametrize(
    "text", ["a story, of a cat\nand, of, a dog\n", "prompt,completion\n", "word\n", "not json, is it?\n"]
)
def test_text_that_is_no_table_is_no_json(tmp_path, text):
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(AlignerProbeError, match="line 1: is no JSON"):
        load_task(path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["train-00000-of-00001.parquet"], r"holds Parquet files; expected a train\.jsonl.*hub:"),
        (["rows.csv"], r"holds rows\.csv.*Name the file: .*rows\.csv"),
        (["config.json", "model.safetensors"], "is a model and no data.*--model"),
        (["adapter_config.json"], "is an adapter.*--adapter"),
        (["dataset_dict.json", "train"], "`datasets` has saved.*hub:"),
        (["state.json", "data-00000-of-00001.arrow"], "`datasets` has saved.*hub:"),
    ],
)
def test_folders_of_other_kinds_are_named_with_a_way_on(tmp_path, names, says):
    for name in names:
        (tmp_path / name).touch()
    assert re.search(says, refused(tmp_path))


# ---- inside JSON


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ('{"prompt": "a", "completion": "b", "prompt": "c"}', "prompt"),
        ('{"prompt": "a", "completion": "b", "meta": {"x": [{"y": 1, "y": 1}]}}', "y"),
        ('{"prompt": "a", "completion": "b", "\\u0070rompt": "a"}', "prompt"),
    ],
)
def test_a_field_that_stands_twice_is_refused_by_name_and_line(tmp_path, row, name):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "a", "completion": "b"}}\n{row}\n')
    with pytest.raises(AlignerProbeError, match=rf"line 2: names the field '{name}' twice"):
        load_task(path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_what_is_no_number_is_never_text(tmp_path, number):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"q": "a", "y": {number}}}\n')
    with pytest.raises(AlignerProbeError, match=r"line 1: its y is -?(nan|inf), which is no number"):
        load_task(path, prompt_template="{q}", completion_field="y")
    # In a field that is not read it is as good as nothing.
    path.write_text(f'{{"prompt": "a", "completion": "b", "loss": {number}}}\n')
    assert load_task(path).ignored_fields == ("loss",)
