# SPDX-License-Identifier: Apache-2.0
"""``documents/csv_rows.py``: CSV as it is written, what is rejected by line, and compressed files of lines."""

import csv
import gzip
import io
import random
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import read_files
from hypothesis import given
from hypothesis import strategies as st
from read_files import Found, placed, rejected, short

from lucidworks_provider.documents.document import Document, Reason
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source
from lucidworks_provider.errors import InputError


def read(folder: Path, name: str, data: bytes, **how: Any) -> Found:
    return read_files.read(placed(folder, name, data), **how)


ESCAPE = {"csv_escapechar": "\\"}
GERMAN = [("1", "Größe"), ("2", "a;b")]


@pytest.mark.parametrize(
    ("name", "text", "how", "found"),
    [
        ("f.csv", "id,text\n1,a\n2,b", {}, [("1", "a"), ("2", "b")]),
        ("f.csv", "id,text\r\n1,a\r\n", {}, [("1", "a")]),
        ("f.csv", "text,other,id\na,,1\n", {}, [("1", "a")]),
        ("f.csv", "sku,body\n1,a\n", {"id_column": "sku", "text_column": "body"}, [("1", "a")]),
        ("f.tsv", "id\ttext\n1\ta,b\n", {}, [("1", "a,b")]),
        ("F.CSV", "id,text\n007,a\n", {}, [("007", "a")]),
        # Quotes
        ("f.csv", 'id,text\n1,"a, ""b"""\n2,5" nail\n', {}, [("1", 'a, "b"'), ("2", '5" nail')]),
        ("f.csv", 'id,text\r\n1,"a\r\n\r\nb\n"\r\n2,c\r\n', {}, [("1", "a\r\n\r\nb\n"), ("2", "c")]),
        ("f.csv", '"i\nd",text\n1,a\n', {"id_column": "i\nd"}, [("1", "a")]),
        ("f.csv", "id,text\n1,' a'\n", {"csv_quotechar": "'"}, [("1", " a")]),
        ("f.csv", 'id,text\n1,"a\n2,b"\n', {"csv_quotechar": ""}, [("1", '"a'), ("2", 'b"')]),
        ("f.csv", 'id,text\n1,"a \\"b\\" \\\\"\n', ESCAPE, [("1", 'a "b" \\')]),
        ("f.csv", "id,text\n1,a\\,b\\\nc\n", {"csv_quotechar": ""} | ESCAPE, [("1", "a,b\nc")]),
        # Other delimiters
        ("f.csv", "id;text\n1;a,b\n", {"csv_delimiter": ";"}, [("1", "a,b")]),
        ("f.tsv", "id|text\n1|a\tb\n", {"csv_delimiter": "|"}, [("1", "a\tb")]),
        ("f.csv", "id\x01text\n1\x01a\n", {"csv_delimiter": "\x01"}, [("1", "a")]),
        # Without a header
        ("f.csv", "1,x,a\n2,y,b\n", {"csv_columns": ["id", "", "text"]}, [("1", "a"), ("2", "b")]),
        # Nothing
        ("f.csv", "", {"csv_columns": ["id", "text"]}, []),
        ("f.csv", "id,text\n", {}, []),
        ("f.csv", "\n\nid,text\n\n1,a\n\n", {}, [("1", "a")]),
    ],
)
def test_what_is_read(
    name: str, text: str, how: dict[str, Any], found: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert short(read(tmp_path, name, text.encode(), **how)) == found
    assert short(read(tmp_path, name, b"\xef\xbb\xbf" + text.encode(), **how)) == found
    assert short(read(tmp_path, f"{name}.gz", gzip.compress(text.encode()), **how)) == found


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "cp1252", "cp037"])
def test_encodings(codec: str, tmp_path: Path) -> None:
    data = 'id;text\n1;Größe\n2;"a;b"\n'.encode(codec)
    assert short(read(tmp_path, "f.csv", data, csv_delimiter=";", encoding=codec)) == GERMAN


@pytest.mark.parametrize("codec", ["cp932", "gb18030", "big5", "iso2022_jp"])
def test_encodings_whose_characters_have_ascii_bytes(codec: str, tmp_path: Path) -> None:
    # The second byte of some is that of a backslash or a bar.
    texts = {"cp932": "表示ソ", "gb18030": "乗亅", "big5": "功許", "iso2022_jp": "日本語の表示"}
    data = f"id|text\n1|{texts[codec]}\n".encode(codec)
    how = {"csv_delimiter": "|", "csv_escapechar": "\\", "encoding": codec}
    assert short(read(tmp_path, "f.csv", data, **how)) == [("1", texts[codec])]


def test_records_that_are_rejected(tmp_path: Path) -> None:
    data = (
        b'id,text\n1,"two\nlines"\n2,a,b\n3\n,x\n4,\n5, \n"6","\xff"\n\xff,x\n7,a\0b\n8,ok\n'
        + b'"9\n",x\n10,ok\n11,\x1b$BF|K\\\x1b(B\n12,\xff\xfea\0'
    )
    found = read(tmp_path, "f.csv", data)
    assert short(found) == [
        ("1", "two\nlines"),
        ("f.csv:4", "<invalid>"),
        ("f.csv:5", "<invalid>"),
        ("f.csv:6", "<invalid>"),
        ("4", "<empty>"),
        ("5", "<empty>"),
        ("6", "<encoding>"),
        ("f.csv:10", "<encoding>"),
        ("7", "<binary>"),
        ("8", "ok"),
        ("f.csv:13", "<invalid>"),
        ("10", "ok"),
        # Of ISO-2022-JP, and with the mark of UTF-16.
        ("11", "<encoding>"),
        ("12", "<encoding>"),
    ]
    assert rejected(found[1]).detail == "Its number of fields is 3 instead of 2."
    assert rejected(found[2]).detail == "Its number of fields is 1 instead of 2."
    assert rejected(found[7]).detail.startswith("Its id: It is not UTF-8 (byte 0) and declares no")


@pytest.mark.parametrize(
    ("data", "how", "reason", "message"),
    [
        (b'1,"a"b\n2,c\n', {}, Reason.INVALID, "f.csv:3: Line 3: ',' expected after '\"'. See csv_quotechar"),
        (b'1,"a\n2,c\n3,d', {}, Reason.INVALID, "f.csv:3: Line 5: unexpected end of data. See csv_quotechar"),
        (b"1,a\rb\n2,c\n", {}, Reason.INVALID, "f.csv:3: Line 3: new-line character seen in unquoted field"),
        (
            b"1," + b"x" * 99 + b"\n2,c\n",
            {},
            Reason.TOO_LARGE,
            "f.csv:3: The record has at least 102 bytes, over",
        ),
        (b'1,"a\n' + b"2,b\n" * 99, {}, Reason.TOO_LARGE, "or a quote is not closed. The rest of"),
        (b"1,a\x81\n", {"encoding": "cp932"}, Reason.ENCODING, "it cannot be decoded as cp932"),
    ],
)
def test_a_file_whose_rest_is_not_read(
    data: bytes, how: dict[str, Any], reason: Reason, message: str, tmp_path: Path
) -> None:
    data = data if how else b"0,ok\n" + data
    found = read(tmp_path, "f.csv", b"id,text\n" + data, max_document_bytes=100, **how)
    assert [one.id for one in found] == ([] if how else ["0"]) + ["f.csv"]
    last = rejected(found[-1])
    assert last.reason is reason
    assert message in last.detail
    assert last.detail.endswith("The rest of the file was not read.")


@pytest.mark.parametrize(
    ("data", "how", "message"),
    [
        (
            b"sku,text\n1,a",
            {},
            r"f\.csv has no column 'id'; it has 'sku', 'text'\. Set id_column and text_column",
        ),
        (b"id;text\n1;a", {}, r"no column 'id'; it has 'id;text'\. .* See csv_delimiter"),
        (b"1,a\n2,b", {}, r"no column 'id'; it has '1', 'a'\. .* csv_columns for files without a header"),
        (b"id,text,id\n1,a,2", {}, "no column 'id'; it has 'id', 'text', 'id'"),
        (b"id,text\n1,a", {"csv_columns": ["id", "text"]}, "begins with a line that names its columns"),
        (b"1,a", {"csv_columns": ["id", "text", "x"]}, "a record of 2 fields, but csv_columns names 3"),
        (b"id,text\n1,a", {"encoding": "utf-16"}, None),
    ],
)
def test_columns(data: bytes, how: dict[str, Any], message: str | None, tmp_path: Path) -> None:
    if message is None:
        read(tmp_path, "f.csv", data, **how)
        return
    with pytest.raises(InputError, match=message):
        read(tmp_path, "f.csv", data, **how)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"csv_delimiter": ";;"}, "csv_delimiter is ';;'; give one ASCII character"),
        ({"csv_delimiter": "§"}, "csv_delimiter is '§'"),
        ({"csv_delimiter": "\n"}, "csv_delimiter is "),
        ({"csv_delimiter": 7}, "csv_delimiter is 7"),
        ({"csv_delimiter": '"'}, "csv_delimiter is '\"', which another option has as well"),
        ({"csv_quotechar": "''"}, "csv_quotechar is "),
        ({"csv_escapechar": '"'}, "is '\"', which another option has as well"),
        ({"csv_columns": "id,text"}, "csv_columns is 'id,text'; give a list"),
        ({"csv_columns": ["id", 5]}, "csv_columns is "),
        ({"csv_columns": 5}, "csv_columns is 5; give a list"),
        ({"csv_columns": {"id", "text"}}, "csv_columns is "),
        ({"csv_delimiter": []}, r"csv_delimiter is \[\]; give one ASCII character"),
        ({"csv_quotechar": {}}, "csv_quotechar is {}; give one ASCII character"),
        ({"csv_escapechar": False}, "csv_escapechar is False; give one ASCII character"),
        ({"csv_columns": ["id", "body"]}, "csv_columns has no column 'text'; it has 'id', 'body'"),
    ],
)
def test_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**arguments)


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 10**9), st.text(st.characters(exclude_categories=["Cs", "Cc"]))), max_size=9
    ),
    delimiter=st.sampled_from(",;|\t"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_what_was_written_is_read(
    rows: list[tuple[int, str]],
    delimiter: str,
    end: str,
    quoting: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("id", "text"), *((number, f"{one}\n,;|\t\"' {one}") for number, one in rows)])
    folder = tmp_path_factory.mktemp("csv")
    found = read(folder, "f.csv", text.getvalue().encode(), csv_delimiter=delimiter)
    assert short(found) == [(str(number), f"{one}\n,;|\t\"' {one}") for number, one in rows]


def test_polars(tmp_path: Path) -> None:
    texts = ["a,b", 'say "hi"', "two\nlines", "Größe 🐄", "x" * 200_000]
    pl.DataFrame({"id": range(5), "text": texts}).write_csv(tmp_path / "f.csv")
    found = read(tmp_path, "f.csv", (tmp_path / "f.csv").read_bytes())
    assert short(found) == list(zip("01234", texts, strict=True))


@pytest.mark.parametrize("name", ["f.csv", "f.csv.gz", "f.jsonl", "f.jsonl.gz"])
def test_bounded_memory(name: str, tmp_path: Path) -> None:
    """16 MB of records, and one of 40 MB without an end."""
    line = b'{"id": 1, "text": "%s"}\n' if "jsonl" in name else b'1,"%s"\n'
    opened = gzip.open if name.endswith(".gz") else open
    with opened(tmp_path / name, "wb") as file:
        file.write(b"" if "jsonl" in name else b"id,text\n")
        for _ in range(400):
            file.write(line % (b"x" * 40_000))
        for _ in range(400):
            file.write(b'"' + b"x" * 100_000)
    [listed] = list_source(str(tmp_path / name))
    tracemalloc.start()
    try:
        good = [
            isinstance(one, Document)
            for one in read_file_documents(listed, ReadOptions(max_document_bytes=100_000))
        ]
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert good == [True] * 400 + [False]
    assert held < 8_000_000


COMPRESSION: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", ["f.jsonl.gz", "f.ndjson.GZ", "f.jsonl.zst"])
def test_compressed_lines(tmp_path: Path, name: str) -> None:
    data = b'{"id": 1, "text": "a"}\n{\n{"id": 2, "text": "b"}'
    compress = COMPRESSION[Path(name).suffix.lower()]
    found = read(tmp_path, name, compress(data[:23]) + compress(data[23:]))
    assert short(found) == [("1", "a"), (f"{name}:2", "<invalid>"), ("2", "b")]
    with pytest.raises(InputError, match=rf"{re.escape(name)} has no column 'text'; it has 'id'"):
        read(tmp_path, name, compress(b'{"id": 1}'))


@pytest.mark.parametrize("name", ["f.csv.gz", "f.jsonl.gz", "f.csv.zst"])
def test_what_cannot_be_decompressed(name: str, tmp_path: Path) -> None:
    texts = [random.Random(n).randbytes(30_000).hex() for n in range(60)]
    form = '{"id": %d, "text": "%s"}\n' if "jsonl" in name else "%d,%s\n"
    lines = "".join(form % one for one in enumerate(texts))
    compressed = COMPRESSION[Path(name).suffix](f"{'' if 'jsonl' in name else 'id,text'}\n{lines}".encode())
    cut = read(tmp_path, name, compressed[:-400])
    broken = read(tmp_path, name, compressed[:-400_000] + b"\0" * 200 + compressed[-400_000:])
    for found in (cut, broken):
        *good, last = found
        assert 10 < len(good) < 60
        assert (last.id, "it cannot be decompressed" in rejected(last).detail) == (name, True)
    for junk in (b"not compressed", b""):
        assert short(read(tmp_path, name, junk, csv_columns=["id", "text"])) == [(name, "<invalid>")]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("f.csv", b""),
        ("f.tsv", b"\xef\xbb\xbf"),
        ("f.csv", b"\n\r\n"),
        ("f.csv.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_without_its_header_a_file_is_damaged(name: str, data: bytes, tmp_path: Path) -> None:
    [found] = read(tmp_path, name, data)
    assert (found.id, rejected(found).detail) == (name, "It has no line that names its columns.")
