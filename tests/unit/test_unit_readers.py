# SPDX-License-Identifier: Apache-2.0
"""``documents/readers.py``: documents and reasons out of every kind of file, in bounded memory."""

import codecs
import json
import sys
import time
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memory_store import memory_store
from read_files import Found, placed, read, rejected, short

from lucidworks_provider.documents import lines
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, check_id
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents, read_inline_documents
from lucidworks_provider.documents.source import SourceFile, list_source
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import reading, remove_file, write_file

SMALL = ReadOptions(max_document_bytes=100)


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.txt", b"One.\r\n", "One.\r\n"),
        ("a.md", "# Größe".encode(), "# Größe"),
        ("a.txt", codecs.BOM_UTF8 + b"One.", "One."),
        ("a.txt", "One.".encode("utf-16"), "One."),
        ("a.html", b"<p>One <b>two</b>.<script>x</script>", "One two."),
        ("a.htm", b"<meta charset=windows-1252><p>\x93One\x94", "“One”"),
        ("a.txt", b"", "<empty>"),
        ("a.txt", b" \n", "<empty>"),
        ("a.txt", codecs.BOM_UTF8, "<empty>"),
        ("a.html", b"<script>only</script>", "<empty>"),
        ("a.txt", b"\x93One\x94", "<encoding>"),
        ("a.html", b"<p>\x93One\x94", "<encoding>"),
        ("a.txt", b"PK\x03\x04\0\0", "<binary>"),
        ("a.html", b"PK\x03\x04\0\0", "<binary>"),
        ("a.html", b"<p>&#1;&#2;", "<binary>"),
        ("a.html", b"<b>" * 999, "<empty>"),
        ("a\tb.txt", b"text", "<invalid>"),
        ("a.txt", b"x" * 4000, "x" * 4000),
        ("a.txt", b"x" * 4001, "<too_large>"),
    ],
)
def test_a_file_that_is_a_document(base: str, name: str, data: bytes, text: str) -> None:
    file = placed(base, f"folder/{name}", data)
    assert short(read(file, ReadOptions(max_document_bytes=4000))) == [(name, text)]


def test_a_declared_encoding(base: str) -> None:
    how = ReadOptions(encoding="cp1252")
    assert short(read(placed(base, "a.txt", b"\x93One\x94"), how)) == [("a.txt", "“One”")]
    assert short(read(placed(base, "a.html", b"<p>\x93One\x94"), how)) == [("a.html", "“One”")]
    lines = placed(base, "a.jsonl", b'{"id": "\xe9", "text": "\x93One\x94"}')
    assert short(read(lines, how)) == [("é", "“One”")]


def test_a_file_that_is_too_large_is_not_opened(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = placed(base, "a.txt", b"x" * 101)
    monkeypatch.setattr("lucidworks_provider.documents.readers.read_file", lambda *_: 1 / 0)
    assert short(read(file, SMALL)) == [("a.txt", "<too_large>")]


def test_a_file_that_has_grown_is_not_held(base: str) -> None:
    file = placed(base, "a.txt", b"x" * 100)
    write_file(file.uri, b"x" * 10_000_000)
    tracemalloc.start()
    try:
        assert short(read(file, SMALL)) == [("a.txt", "<too_large>")]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl", "a.parquet"])
def test_a_file_that_went(base: str, name: str) -> None:
    file = placed(base, name, b"x")
    remove_file(file.uri)
    assert short(read(file)) == [(name, "<missing>")]


def test_a_missing_bucket_is_no_missing_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(file: SourceFile) -> Any:
        raise StorageError("gone") from FileNotFoundError("The specified bucket does not exist")

    file = placed(str(tmp_path), "a.jsonl", b"{}")
    monkeypatch.setattr(lines, "open_file", gone)
    assert short(read(file)) == [("a.jsonl", "<unreadable>")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet"])
def test_a_storage_that_fails(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = placed(str(tmp_path), name, b"x")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    [found] = read(file)
    assert (found.id, rejected(found).reason) == (name, Reason.UNREADABLE)
    assert "Permission denied" in rejected(found).detail


def test_a_storage_that_fails_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    fs = memory_store()
    lines = b"".join(b'{"id": %d, "text": "%s"}\n' % (n, b"x" * 1_500_000) for n in range(4))
    file = placed("memory://bucket", "a.jsonl", lines)
    cat = type(fs).cat_file

    def breaking(fs: object, path: str, start: int, end: int) -> bytes:
        if start:
            raise ConnectionError("reset https://host/x?X-Amz-Signature=secret")
        return bytes(cat(fs, path, start=start, end=end))

    monkeypatch.setattr(type(fs), "cat_file", breaking)
    *good, last = read(file)
    assert [one.id for one in good] == ["0", "1"]
    assert (last.id, rejected(last).reason) == ("a.jsonl", Reason.UNREADABLE)
    assert "memory://bucket/a.jsonl cannot be read: ConnectionError: reset" in rejected(last).detail
    assert "secret" not in rejected(last).detail


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_an_object_that_is_replaced_while_it_is_read_is_a_reject(tmp_path: Path, name: str) -> None:
    """Its parts would be of two versions."""
    fs = memory_store()
    rows = [{"id": str(n), "text": f"Sentence {n}. " * 50_000} for n in range(32)]
    if name.endswith("jsonl"):
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name, row_group_size=1, compression="none")
        data = (tmp_path / name).read_bytes()
    file = placed("memory://bucket", name, data)
    found: Found = []
    for one in read_file_documents(file, ReadOptions()):
        found.append(one)
        if len(found) == 2:
            fs.store["/bucket/" + name].modified += timedelta(seconds=1)
            fs.store["/bucket/" + name].created += timedelta(seconds=1)
    *good, last = found
    assert 2 <= len(good) < 32
    assert last.id == name
    assert rejected(last).reason is Reason.UNREADABLE or not name.endswith("jsonl")
    assert "changed while it was read" in rejected(last).detail


def test_what_a_file_says_of_its_errors(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="nowhere cannot be read: FileNotFoundError") as caught,
        reading(f"{tmp_path}/nowhere"),
    ):
        pass
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(KeyError), reading(__file__):
        raise KeyError("a rejection of ours")


INVALID = ("f.jsonl:2", "<invalid>")
LINES = {
    b'{"id": "a", "text": "One."}': ("a", "One."),
    b'  {"text": "One.", "id": 7, "more": [1, {}]}\t\r': ("7", "One."),
    b'{"id": -1, "text": "One.", "price": NaN}': ("-1", "One."),
    '{"id": "ä", "text": "Größe 🐄"}'.encode(): ("ä", "Größe 🐄"),
    b'{"id": "a", "text": "\\ud83d\\udc04"}': ("a", "🐄"),
    b'{"id": "a", "text": ""}': ("a", "<empty>"),
    b'{"id": "a", "text": " \\n"}': ("a", "<empty>"),
    b'{"id": "a", "text": null}': ("a", "<empty>"),
    b'{"id": "a", "text": 5}': ("a", "<invalid>"),
    b'{"id": "a", "text": ["x"]}': ("a", "<invalid>"),
    b'{"id": "a", "text": "\\ud800"}': ("a", "<invalid>"),
    b'{"id": "a", "text": "\\u0000"}': ("a", "<binary>"),
    b'{"id": "a"}': ("a", "<empty>"),
    b'{"text": "x"}': INVALID,
    **dict.fromkeys(
        (
            b'{"id": %s, "text": "x"}' % one
            for one in (
                *(b'""', b'"  "', b"null", b"true", b"1.5", b"1e999", b'["a"]', b'"\\ud800"'),
                *(b'"' + b"a" * 5000 + b'"', b"9" * 10_000),
            )
        ),
        INVALID,
    ),
    **dict.fromkeys((b'{"id": "a", "text": "x"', b"[1, 2]", b"null", b'"text"', b"[" * 100_000), INVALID),
    b'{"id": "a", "text": "\xe9"}': ("f.jsonl:2", "<encoding>"),
    b'{"id": "a", "text": "\0"}': ("f.jsonl:2", "<binary>"),
    b"\x1f\x8b\x08\x01\x02\x03\x04\x05": ("f.jsonl:2", "<binary>"),
}


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("parser", ["orjson", "json"])
def test_a_line(line: bytes, parser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if parser == "json":
        monkeypatch.setitem(sys.modules, "orjson", None)
    # The lines before and after it are read whatever this one is.
    around = b'{"id": "first", "text": "x"}\n%s\n{"id": "next", "text": "x"}'
    file = placed(str(tmp_path), "f.jsonl", around % line)
    found = read(file)
    assert short(found) == [("first", "x"), LINES[line], ("next", "x")]
    assert all(isinstance(one, Document) or one.detail.endswith(".") for one in found)


def test_lines(base: str) -> None:
    data = (
        codecs.BOM_UTF8
        + b'\n \r\n{"id": 1, "text": "a"}\r\n\n{"id": "1", "text": "b"}\n{\n{"id": 3, "text": "c"}'
    )
    file = placed(base, "f.ndjson", data)
    assert short(read(file)) == [("1", "a"), ("1", "b"), ("f.ndjson:6", "<invalid>"), ("3", "c")]
    assert read(placed(base, "none.jsonl", b"")) == []
    assert read(placed(base, "blank.jsonl", b"\n\n")) == []


def test_a_line_that_is_too_long(base: str) -> None:
    line = b'{"id": %d, "text": "%s"}'
    lines = [line % (0, b"x" * 60), line % (1, b"x" * 90), line % (2, b"x" * 3_000_000), line % (3, b"y")]
    file = placed(base, "f.jsonl", b"\n".join(lines))
    found = read(file, SMALL)
    assert short(found) == [
        ("0", "x" * 60),
        ("f.jsonl:2", "<too_large>"),
        ("f.jsonl:3", "<too_large>"),
        ("3", "y"),
    ]
    assert "3,000,021 bytes, over max_document_bytes=100" in rejected(found[2]).detail
    # The last one, without an end.
    assert short(read(placed(base, "l.jsonl", lines[2]), SMALL)) == [("l.jsonl:1", "<too_large>")]


def test_a_line_of_gigabytes_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "f.jsonl"
    with path.open("wb") as file:
        file.write(b'{"id": 1, "text": "a"}\n"')
        file.seek(300_000_000)  # a hole, which takes no space
        file.write(b'"\n{"id": 2, "text": "b"}\n')
    [listed] = list_source(str(path))
    tracemalloc.start()
    begin = time.process_time()
    try:
        assert short(read(listed, SMALL)) == [("1", "a"), ("f.jsonl:2", "<too_large>"), ("2", "b")]
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert time.process_time() - begin < 10


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig", "cp1252"])
def test_lines_in_other_encodings(base: str, codec: str) -> None:
    text = "".join(f'{{"id": {n}, "text": "Größe {n} {"x" * 900}"}}\n' for n in range(1500))
    file = placed(base, "f.jsonl", text.encode(codec))
    found = read(file, ReadOptions(encoding=codec))
    assert [one.id for one in found] == [str(n) for n in range(1500)]
    assert all(isinstance(one, Document) and one.text.startswith("Größe ") for one in found)


@pytest.mark.parametrize(
    ("codec", "text"), [("utf-7", "café"), ("hz", "中文"), ("gbk", "隆"), ("iso2022_jp", "日本語")]
)
def test_lines_whose_bytes_are_also_other_json(base: str, codec: str, text: str) -> None:
    file = placed(base, "f.jsonl", f'{{"id": 1, "text": "{text}"}}'.encode(codec))
    assert short(read(file, ReadOptions(encoding=codec))) == [("1", text)]


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("name", "head"), [("f.jsonl", ""), ("f.csv", "x,id,text\n")])
def test_a_mark_that_contradicts_the_declared_encoding(base: str, codec: str, name: str, head: str) -> None:
    record = ",1,é\n" if head else '{"id": 1, "text": "é"}'
    [found] = read(placed(base, name, f"{head}{record}".encode(codec)), ReadOptions(encoding="gbk"))
    assert (found.id, rejected(found).reason) == (name, Reason.ENCODING)
    assert "cannot be decoded as gbk: it begins with the byte order mark of UTF-" in rejected(found).detail


def test_wide_lines_that_are_no_json(base: str) -> None:
    data = '{"id": 1, "text": "x", "price": NaN}\n{"id":\n'.encode("utf-16")
    found = read(placed(base, "f.jsonl", data), ReadOptions(encoding="utf-16"))
    assert short(found) == [("1", "x"), ("f.jsonl:2", "<invalid>")]


def test_wide_lines_that_are_broken(base: str) -> None:
    data = '{"id": 1, "text": "x"}\n'.encode("utf-16") + b"\x00\xdc" * 9 + b"\n\0"
    found = read(placed(base, "f.jsonl", data))
    assert short(found) == [("f.jsonl", "<encoding>")]


@given(
    rows=st.lists(st.tuples(st.text(min_size=1), st.text()), max_size=20),
    end=st.sampled_from(["\n", "\r\n", "\n\n"]),
    ascii_only=st.booleans(),
)
def test_what_was_written_is_read(
    rows: list[tuple[str, str]], end: str, ascii_only: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    lines = [json.dumps({"id": name, "text": text}, ensure_ascii=ascii_only) for name, text in rows]
    found = read(placed(str(folder), "f.jsonl", (end.join(lines)).encode()))
    assert len(found) == len(rows)
    for (name, text), one in zip(rows, found, strict=True):
        if isinstance(one, Document):
            assert (one.id, one.text) == (name, text)
        else:
            assert check_id(name) or not text.strip() or any(c < " " or c == "\x7f" for c in text)


def table(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint64(), pa.int64(), pa.dictionary(pa.int8(), pa.int64())])
def test_ids_that_are_numbers(base: str, kind: pa.DataType) -> None:
    ids = pa.array([1, 2, None, 4], kind)
    file = placed(base, "f.parquet", table(sku=ids, body=["x", " ", "y", "z\0"]))
    how = ReadOptions(id_column="sku", text_column="body")
    assert short(read(file, how)) == [
        ("1", "x"),
        ("2", "<empty>"),
        ("f.parquet:3", "<invalid>"),
        ("4", "<binary>"),
    ]


def test_rows_that_are_no_documents(base: str) -> None:
    texts = pa.array([b"\xff", b"x" * 101, b"ok"])
    file = placed(base, "f.parquet", table(id=["a", "b", " "], text=texts.cast(pa.string(), safe=False)))
    assert short(read(file, SMALL)) == [
        ("a", "<encoding>"),
        ("b", "<too_large>"),
        ("f.parquet:3", "<invalid>"),
    ]
    escaped = placed(base, "e.parquet", table(id=["a"], text=pa.array(["日本".encode("iso2022_jp")])))
    assert short(read(escaped)) == [("a", "<encoding>")]
    assert short(read(escaped, ReadOptions(encoding="iso2022_jp"))) == [("a", "日本")]
    declared = placed(base, "g.parquet", table(id=["a"], text=pa.array([b"\xe9"])))
    assert short(read(declared, ReadOptions(encoding="cp1252"))) == [("a", "é")]
    # Strings are UTF-8, whatever the encoding of the text files beside them.
    for kind in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        strings = placed(base, "s.parquet", table(id=["a"], text=pa.array(["日本"], kind)))
        for encoding in ("cp1252", "utf-16", "iso2022_jp"):
            assert short(read(strings, ReadOptions(encoding=encoding))) == [("a", "日本")]
    none = pa.array([], pa.string())
    assert read(placed(base, "h.parquet", table(id=none, text=none))) == []
    assert short(read(placed(base, "n.parquet", table(id=["a"], text=pa.nulls(1))))) == [("a", "<empty>")]


@pytest.mark.parametrize("cut", [0, 3, 50, 2000])
def test_a_broken_table(base: str, cut: int) -> None:
    data = table(id=[str(n) for n in range(300)], text=[f"text {n}" for n in range(300)])
    file = placed(base, "f.parquet", data[:-cut] if cut else b"PAR1 is all that is right of it")
    assert short(read(file)) == [("f.parquet", "<invalid>")]


def test_a_table_with_a_column_whose_name_is_not_utf8(base: str) -> None:
    data = table(id=["a"], text=["x"], name=["y"]).replace(b"name", b"n\xffme")
    assert short(read(placed(base, "f.parquet", data))) == [("f.parquet", "<invalid>")]


def test_a_table_that_is_broken_in_the_middle(base: str) -> None:
    data = bytearray(table(id=[f"{n:03}" for n in range(30)], text=[f"some text {n:03}" for n in range(30)]))
    at = data.index(b"some text 015")
    data[at - 60 : at - 20] = b"\xff" * 40
    *good, last = read(placed(base, "f.parquet", bytes(data)))
    assert len(good) >= 12
    assert (last.id, rejected(last).reason) == ("f.parquet", Reason.INVALID)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"sku": ["a"], "text": ["x"]},
            r"f\.parquet has no column 'id'; it has 'sku', 'text'\. Set id_column",
        ),
        ({"id": ["a"], "body": ["x"]}, "no column 'text'; it has 'id', 'body'"),
        ({"id": [1.5], "text": ["x"]}, "column 'id' is of type double"),
        ({"id": ["a"], "text": [5]}, "column 'text' is of type int64"),
        ({"id": ["a"], "text": [["x"]]}, "column 'text' is of type list"),
    ],
)
def test_columns_of_a_table(base: str, columns: dict[str, Any], message: str) -> None:
    file = placed(base, "f.parquet", table(**columns))
    with pytest.raises(InputError, match=message):
        read(file)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"sku": 1, "text": "x"}', r"f\.jsonl has no column 'id'; it has 'sku', 'text'"),
        (
            b'\xef\xbb\xbf\n\n{"id": 1, "body": "x"}\n[1]\n{"id": 2}',
            "no column 'text'; it has 'id', 'body'",
        ),
        (b'{"id": 1}\n' * 1000 + b'{"id": 2, "text": "x"}', "no column 'text'; it has 'id'"),
        (b"{}", "it has none"),
        (b'{"%s": 1}' % (b"x" * 80), f"it has '{'x' * 40}'"),
        (b'{"id": 1, "text": null}', None),
        (b'{"id": 1}\n' * 999 + b'{"id": 2, "text": "x"}', None),
        (b'{"id": ', None),
        (b"[1]", None),
        (b"\xff\xfe\x00", None),
        (b"x" * 200, None),
        (b"", None),
    ],
)
def test_fields_of_the_first_lines(base: str, data: bytes, message: str | None) -> None:
    file = placed(base, "f.jsonl", data)
    if message is None:
        read(file, SMALL)
    else:
        with pytest.raises(InputError, match=message):
            read(file, SMALL)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One.", "One."),
        ("Größe".encode(), "Größe"),
        (codecs.BOM_UTF8 + b"One.", "One."),
        (b"\xe9", "<encoding>"),
        (b"a\0b", "<binary>"),
        ("a\0b", "<binary>"),
        (b"", "<empty>"),
        (b"x" * 101, "<too_large>"),
        (bytearray(b"One."), "<invalid>"),
    ],
)
def test_inline_documents(text: object, expected: str) -> None:
    found = read_inline_documents(
        [{"sku": 7, "body": text}], id_column="sku", text_column="body", max_document_bytes=100
    )
    assert short(found) == [("7", expected)]


@pytest.mark.parametrize("given", [None, True, 1.5, "", "a\n", [], {}])
def test_an_inline_document_without_a_valid_id_is_an_error(given: object) -> None:
    documents = [{"id": "a", "text": "One."}, {"id": given, "text": "Two."}]
    with pytest.raises(InputError, match=r"source\[1\]: Its id "):
        read_inline_documents(documents, id_column="id", text_column="text", max_document_bytes=100)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"id_column": ""}, "id_column is ''"),
        ({"text_column": None}, "text_column is None"),
        ({"id_column": "text"}, "both 'text'"),
        ({"encoding": "utf-9"}, "encoding is 'utf-9'"),
        ({"encoding": []}, r"encoding is \[\]; give the name"),
        ({"encoding": 5}, "encoding is 5; give the name"),
        ({"max_document_bytes": 0}, "max_document_bytes is 0"),
        ({"max_document_bytes": True}, "max_document_bytes is True"),
        ({"max_document_bytes": 1e6}, "max_document_bytes is 1000000.0"),
    ],
)
def test_how_files_cannot_be_read(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ReadOptions(**arguments)


@pytest.mark.parametrize(("module", "name"), [("lxml", "a.html"), ("pyarrow", "a.parquet")])
def test_without_the_extra(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = placed(str(tmp_path), name, b"<p>x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"airflow-provider-lucidworks\[documents\]"):
        read(file)


def held(documents: Iterator[Document | RejectedDocument]) -> int:
    """Bytes of Python and of Arrow at most while documents are read."""
    most = 0
    tracemalloc.start()
    try:
        for number, _ in enumerate(documents):
            if number % 100 == 0:
                most = max(most, pa.total_allocated_bytes())
        return most + tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("repeated", [False, True])
def test_a_table_in_bounded_memory(tmp_path: Path, repeated: bool) -> None:
    # The file has repeated texts once: 300 MB of texts if all were unpacked.
    rows = 3_000 if repeated else 10_000
    texts = ["x" * 100_000] * rows if repeated else [f"{n} " * 800 for n in range(rows)]
    if repeated:
        column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(texts[:1]))
    else:
        column = pa.array(texts)
    pq.write_table(pa.table({"id": pa.array(range(rows)), "text": column}), tmp_path / "f.parquet")
    del texts, column
    [file] = list_source(str(tmp_path))
    before = pa.total_allocated_bytes()
    assert held(read_file_documents(file, ReadOptions())) - before < 60_000_000


def test_small_files_are_cheap(tmp_path: Path) -> None:
    file = placed(str(tmp_path), "a.txt", ("Größe zählt. " * 300).encode())
    how = ReadOptions()
    begin = time.process_time()
    for _ in range(2000):
        read(file, how)
    # 25 microseconds where it was written; the client has 2,000 for a document.
    assert time.process_time() - begin < 0.5
