"""Tables: CSV and Parquet are read as the same rows of JSONL would be, with the numbers of their rows in messages."""

import csv
import datetime
import io
import json
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import refused, write

from aligner_probe.errors import AlignerProbeError
from aligner_probe.tasks import Example, load_splits, load_task, sources
from aligner_probe.tasks.chat import Conversation, Message
from aligner_probe.tasks.tables import rows_of_csv

ROWS = [{"prompt": "Say 007, please", "completion": "NA"}, {"prompt": 'A "cat"\nor\tnot', "completion": " été "}]
FRAME = pd.DataFrame(ROWS)
MESSAGES = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Ho."}]
CHAT = Example(Conversation((Message("user", "Hi."),)), "Ho.")


@pytest.mark.parametrize("name", ["rows", "it's $mine", "rows.jsonl"])
@pytest.mark.parametrize(
    ("ending", "lines", "write"),
    [
        (".csv", (2, 3), lambda path: FRAME.to_csv(path, index=False)),
        (".CSV", (2, 3), lambda path: FRAME.to_csv(path)),
        (".txt", (2, 3), lambda path: FRAME.to_csv(path, index=False)),
        (".csv", (2, 3), lambda path: FRAME.to_csv(path, index=False, sep=";", encoding="utf-8-sig")),
        (".tsv", (2, 3), lambda path: FRAME.to_csv(path, index=False, sep="\t", quoting=csv.QUOTE_ALL)),
        (".parquet", (1, 2), lambda path: FRAME.to_parquet(path)),
        ("", (1, 2), lambda path: FRAME.to_parquet(path, compression="zstd", row_group_size=1)),
        (".json", (1, 2), lambda path: path.write_text(json.dumps(ROWS, indent=2))),
    ],
)
def test_a_table_is_read_as_the_rows_that_it_holds(tmp_path, ending, lines, write, name):
    path = tmp_path / f"{name}{ending}"
    write(path)
    task = load_task(path)
    assert [{"prompt": e.prompt, "completion": e.completion} for e in task.examples] == ROWS
    assert tuple(example.line for example in task.examples) == lines
    assert (task.name, task.source, len(task.sha256)) == (path.stem, str(path), 64)
    assert task.unit == ("row" if lines[0] == 1 else "line")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)


@settings(max_examples=60)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=4),
    separator=st.sampled_from([",", ";", "\t"]),
    ends=st.sampled_from(["\n", "\r\n"]),
)
def test_what_csv_writes_is_read_to_the_last_character_and_each_row_knows_its_line(tmp_path, rows, separator, ends):
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator=ends)
    starts = []
    for row in [("p", "c"), *rows]:
        # csv itself counts \r, \n and \r\n as the end of a line.
        text = written.getvalue().replace("\r\n", "\n").replace("\r", "\n")
        starts.append(text.count("\n") + 1)
        writer.writerow(row)
    read = list(rows_of_csv(tmp_path / "rows.csv", written.getvalue().encode(), separator, 2**20))
    assert [tuple(row.values()) for _, row in read] == rows
    assert [line for line, _ in read] == starts[1:]


@pytest.fixture(scope="module")
def tmp_path(tmp_path_factory):
    return tmp_path_factory.mktemp("tables")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prompt,completion\na,b\nc\n", "line 3: has 1 cells; expected 2"),
        ("prompt,completion\na,b,c\n", "line 2: has 3 cells; expected 2.*a comma"),
        ('prompt,completion\na,"b\nc\nd,e\n', "line 2: is no row of the table"),
        ('prompt,completion\na,"b"c\n', "line 2: is no row of the table"),
        ("prompt,completion\na,b\n\nc,d\n", "line 3: is blank"),
        ("prompt,prompt\na,b\n", "line 1: has the name 'prompt' twice"),
        ("prompt,,\na,b,c\n", "line 1: has more than one column without a name"),
        ("prompt,completion\n", "is empty; expected at least one row"),
        ("prompt,completion\na,b\nc,\n", "line 3: the completion is empty"),
        ('prompt,completion\n"a\nb",c\nd, \n', "line 4: the completion is empty"),
        ("prompt,completion,system\na,b,\nc,d,Be brief.\n", "line 3: has the field system"),
        ("messages,id\nHi.,1\n", "line 2: has a JSON text in messages; expected a list of messages"),
    ],
)
def test_rows_that_do_not_fit_are_one_line_with_their_number(tmp_path, text, says):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert_says(f"bad.csv(, |: ){says}", refused(path))


def assert_says(pattern, said):
    assert re.search(pattern, said), said


def test_a_csv_in_another_encoding_names_the_line(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes("prompt,completion\na,b\né,c\n".encode("latin-1"))
    assert_says("line 3: is no UTF-8 .byte 0xe9", refused(path))


def test_a_long_cell_is_read(tmp_path):
    path = tmp_path / "long.csv"
    FRAME.assign(prompt="x" * 300_000).iloc[:1].to_csv(path, index=False)
    before = csv.field_size_limit()
    assert len(load_task(path).prompts[0]) == 300_000
    assert csv.field_size_limit() == before


def test_messages_in_tables(tmp_path):
    path = tmp_path / "chat.parquet"
    parts = [{"role": "user", "content": "Hi.", "tool_calls": None}, {"role": "assistant", "content": "Ho."}]
    pd.DataFrame({"messages": [MESSAGES, parts], "id": [1, 2]}).to_parquet(path)
    assert load_task(path).examples == (CHAT, CHAT)
    path = tmp_path / "chat.csv"
    pd.DataFrame({"messages": [json.dumps(MESSAGES)], "group": ["g"]}).to_csv(path, index=False)
    assert load_task(path).examples[0].prompt == CHAT.prompt
    path = tmp_path / "bad.parquet"
    pd.DataFrame({"messages": [MESSAGES, MESSAGES[::-1]]}).to_parquet(path)
    assert "bad.parquet, row 2: message 1 is of the assistant" in refused(path)
    pair = {"chosen": [MESSAGES], "rejected": [[MESSAGES[0], MESSAGES[1] | {"content": "Ha."}]]}
    pd.DataFrame(pair).to_parquet(path)
    assert load_task(path).kind == "preference"


def test_cells_of_other_types_are_listed_or_named(tmp_path):
    path = tmp_path / "types.parquet"
    more = {"date": [datetime.datetime(2026, 1, 1)] * 2, "logo": [b"\x00", None], "score": [1.5, 1.5], "n": [1, 2]}
    FRAME.assign(**more).to_parquet(path)
    assert load_task(path).ignored_fields == ("date", "logo", "score", "n")
    FRAME.assign(image=[b"\x00", None]).to_parquet(path)
    assert "row 1: has the field image" in refused(path)
    FRAME.assign(completion=[1, 2]).to_parquet(path)
    assert "row 1: its completion is a JSON number" in refused(path)
    pd.DataFrame({"prompt": ["a", "b"], "completion": ["c", None]}).to_parquet(path)
    assert "row 2: its completion is a JSON null" in refused(path)
    assert "row 2" in load_task(FRAME.assign(label=[True, False]).pipe(saved, path), flawed="drop").dropped_note


def saved(frame, path):
    frame.to_parquet(path)
    return path


def test_a_parquet_file_that_is_damaged_or_unpacks_to_too_much(tmp_path, monkeypatch):
    path = saved(FRAME, tmp_path / "rows.parquet")
    content = path.read_bytes()
    for broken in (content[:-20], content[:8], content[:4] + content[60:]):
        path.write_bytes(broken)
        assert "is a damaged Parquet file" in refused(path)
    saved(pd.DataFrame({"prompt": ["x" * 10_000] * 500, "completion": ["y"] * 500}), path)
    assert path.stat().st_size < 30_000
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 30_000)
    assert "unpacks to more than 30,000 bytes" in refused(path)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet", ".json"])
def test_a_folder_may_hold_its_parts_as_tables(tmp_path_factory, ending):
    folder = tmp_path_factory.mktemp("folder")
    writers = {
        ".csv": lambda frame, path: frame.to_csv(path, index=False),
        ".tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
        ".parquet": lambda frame, path: frame.to_parquet(path),
        ".json": lambda frame, path: path.write_text(frame.to_json(orient="records")),
    }
    for part, row in zip(("train", "test"), ROWS, strict=True):
        writers[ending](pd.DataFrame([row]), folder / f"{part}{ending}")
    train, test = load_splits(folder)
    assert (train.prompts, test.prompts) == ([ROWS[0]["prompt"]], [ROWS[1]["prompt"]])
    assert (train.name, test.name) == (folder.name, folder.name)
    # JSONL comes first; two tables could be either.
    write(folder / "train.jsonl", [{"prompt": "c", "completion": "d"}])
    assert load_task(folder).prompts == ["c"]
    (folder / "test.csv").touch()
    (folder / "test.parquet").touch()
    with pytest.raises(AlignerProbeError, match=r"holds test\..* and test\..*; expected one file"):
        load_splits(folder)


def test_the_parts_of_a_probe_are_found_beside_each_other(tmp_path_factory):
    from aligner_probe.probing.inputs import load_parts

    folder = tmp_path_factory.mktemp("parts")
    for part in ("train", "test", "validation"):
        pd.DataFrame([{"prompt": part, "completion": "x"}]).to_csv(folder / f"{part}.csv", index=False)
    given = load_parts(folder)
    assert [part.prompts for part in (given.train, given.test, given.validation)] == [
        ["train"],
        ["test"],
        ["validation"],
    ]
    assert load_parts(folder / "train.csv").validation.prompts == ["validation"]
