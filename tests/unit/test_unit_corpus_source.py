# SPDX-License-Identifier: Apache-2.0
"""``documents/source.py``: the same files from a local disk and from a store, and errors for what is none."""

import os
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from memory_store import attach, memory_store

from lucidworks_provider.corpus.plan import Plan
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.documents.document import Reason, RejectedDocument
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import (
    Format,
    fetch,
    is_file_of,
    list_source,
    may_contain,
    source_folder,
)
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import find_entry, list_below, list_folder, read_file, write_file

TREE = (
    *("a.txt", "B.MD", "page.html", "old.HTM", "lines.jsonl", "more.ndjson", "rows.parquet"),
    *("x.pdf", "noext", ".hidden.txt", ".git/config.txt", "sub/c.txt", "sub/deep/d.txt", "sub/.x/e.txt"),
    *("2024/a.txt", "2025/a.txt", "2025/ä #%1.txt"),
)
READABLE = {path for path in TREE if not path.startswith(".") and "/." not in path} - {"x.pdf", "noext"}


@pytest.fixture(params=["path", "file", "memory", "s3"])
def base(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    match request.param:
        case "path":
            return str(tmp_path / "corpus")
        case "file":
            return f"file://{tmp_path}/corpus"
        case "memory":
            memory_store()
            return "memory://bucket/corpus"
    # A store whose listing is flat, with its names for sizes and times.
    return bucket_of(Flat(), monkeypatch)


def bucket_of(files: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> str:
    attach(protocol="s3", conn_id="bucket_of_tests", fs=files).fs.store.clear()
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET_OF_TESTS", "aws://")
    return "s3://bucket_of_tests@bucket/corpus"


class Flat(MemoryFileSystem):
    """Lists files as s3fs does, and caches listings until they are invalidated."""

    protocol = "s3"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.replace("s3://", "memory://"))

    def find(self, path: str, **kwargs: Any) -> Any:
        found = super().find(path, **kwargs)
        return {name: {**info, "ETag": f'"{info["created"]}"'} for name, info in found.items()}


class Older(Flat):
    """As s3fs before 2026.4, on a server that refuses prefixes with an empty folder name, as MinIO does."""

    def cat_file(self, path: str, version_id: str | None = None, start: Any = None, end: Any = None) -> Any:
        return super().cat_file(path, start=start, end=end)

    def find(self, path: str, *args: Any, prefix: str = "", **kwargs: Any) -> Any:
        if prefix == "/":
            refusal = OSError("XMinioInvalidObjectName")
            refusal.response = {"ResponseMetadata": {"HTTPStatusCode": 400}}  # type: ignore[attr-defined]
            raise refusal
        return super().find(path, *args, prefix=prefix, **kwargs)


def test_older_file_systems_and_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    base = bucket_of(Older(), monkeypatch)
    fill(base, *TREE)
    for file in list_source(base):
        assert fetch(file).contents in {b"12345", None}
        assert read_file(file.uri) == b"12345"
    assert paths(base) == READABLE


def fill(base: str, *paths: str) -> None:
    for path in paths:
        write_file(f"{base}/{path}", b"12345")


def paths(source: str) -> set[str]:
    return {file.path for file in list_source(source)}


def test_a_folder(base: str, caplog: pytest.LogCaptureFixture) -> None:
    fill(base, *TREE)
    files = list(list_source(base))
    assert len(files) == len(READABLE)
    assert {file.path for file in files} == READABLE
    for file in files:
        assert file.uri == f"{base}/{file.path}"
        assert read_file(file.uri) == b"12345", file
        assert file.size == 5
        assert file.etag.split(":")[0] in {"mtime", "etag", "seen"}
    assert "2 files of other formats" in caplog.text
    assert paths(f"{base}/") == READABLE
    assert paths(f"{base}/sub") == {"c.txt", "deep/d.txt"}


def test_formats(tmp_path: Path) -> None:
    names = {
        Format.TEXT: ("a.txt", "B.MD"),
        Format.HTML: ("page.html", "old.HTM"),
        Format.JSON_LINES: ("lines.jsonl", "more.ndjson", "a.jsonl.gz", "a.ndjson.zst"),
        Format.PARQUET: ("rows.parquet",),
        Format.CSV: ("a.csv", "a.tsv", "a.CSV.gz", "a.tsv.gz"),
    }
    fill(
        str(tmp_path),
        "a.txt.gz",
        "a.gz",
        "gz",
        "csv",
        "csv.gz",
        *(name for of in names.values() for name in of),
    )
    found = {file.path: file.format for file in list_source(str(tmp_path))}
    assert found == {name: kind for kind, of in names.items() for name in of}


def test_a_file(base: str) -> None:
    fill(base, "sub/c.txt")
    [file] = list_source(f"{base}/sub/c.txt")
    assert (file.uri, file.path, file.size, file.format) == (f"{base}/sub/c.txt", "c.txt", 5, Format.TEXT)


@pytest.mark.parametrize(
    ("glob", "found"),
    [
        ("*.txt", {"a.txt"}),
        ("*", {path for path in READABLE if "/" not in path}),
        ("202?/*.txt", {"2024/a.txt", "2025/a.txt", "2025/ä #%1.txt"}),
        ("202[4]/*", {"2024/a.txt"}),
        ("202[!4]/a.txt", {"2025/a.txt"}),
        ("**/*.txt", {path for path in READABLE if path.endswith(".txt")}),
        ("**", READABLE),
        ("sub/**", {"c.txt", "deep/d.txt"}),
        ("sub/**/d.txt", {"deep/d.txt"}),
        ("**/deep/*.txt", {"sub/deep/d.txt"}),
        ("**/sub/**/d*", {"sub/deep/d.txt"}),
        ("*/deep/*", {"sub/deep/d.txt"}),
        ("[ab].txt", {"a.txt"}),
        ("l*s.json[l-m]", {"lines.jsonl"}),
    ],
)
def test_a_glob(base: str, glob: str, found: set[str]) -> None:
    fill(base, *TREE)
    assert paths(f"{base}/{glob}") == found


@pytest.mark.parametrize(
    ("source", "output", "expected"),
    [
        ("", "chunks", True),
        ("", "", True),
        ("sub", "sub-chunks", False),
        ("[draft]", "chunks", False),
        ("[draft]", "[draft]/chunks", True),
        ("*.txt", "chunks", False),
        ("*/*.txt", "chunks", False),
        ("*/*.jsonl", "chunks", True),
        ("*/*", "chunks", True),
        ("*/*.jsonl", "2024/chunks", False),
        ("202?/*/*.txt", "chunks", False),
        ("202?/*/*.txt", "2024", True),
        ("202?/*/*.txt", "2024/chunks", False),
        ("202?/*/*.htm*", "2024/chunks", True),
        ("[draft]/*", "[draft]/chunks", False),
        ("[draft]/*/*", "[draft]/chunks", True),
        ("[draft]/*/*", "d/chunks", False),
        ("**/*.txt", "chunks", True),
        ("sub/**", "chunks", False),
        ("sub/**", "sub/deep/chunks", True),
    ],
)
def test_what_a_source_may_hold(base: str, source: str, output: str, expected: bool) -> None:
    fill(base, *TREE, "[draft]/a.txt")
    names = {"rejects.jsonl", "report.html", "chunks"}
    assert may_contain(f"{base}/{source}", f"{base}/{output}".rstrip("/"), names) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("s3://aws@b", "s3a://b", True),
        ("s3n://b", "s3://other@b", True),
        ("gcs://google@b", "gs://b", True),
        ("az://c", "abfss://azure@c", True),
        ("abfs://c@a.dfs.core.windows.net", "abfs://d@a.dfs.core.windows.net", False),
        ("s3://b", "gs://b", False),
        ("s3://b", "s3://c", False),
    ],
)
def test_spellings_of_one_store(one: str, other: str, same: bool) -> None:
    for source, result in ((one, other), (other, one)):
        assert is_file_of(f"{source}/in", f"{result}/in/p.parquet") is same
        assert is_file_of(f"{source}/t.parquet", f"{result}/t.parquet") is same
        assert may_contain(f"{source}/in", f"{result}/in/out", {"chunks"}) is same


def test_a_glob_goes_into_no_folder_that_it_cannot_match(base: str) -> None:
    # Of a table beside the source, where its log would be refused.
    fill(base, "2024/may/a.txt", "chunks/chunks/_delta_log/0.json", "chunks/chunks/0.txt")
    assert paths(f"{base}/202?/*/*.txt") == {"2024/may/a.txt"}


def test_a_name_that_looks_like_a_glob(base: str) -> None:
    fill(base, "[draft]/a*.txt", "[draft]/b.txt", "d/c.txt")
    assert source_folder(f"{base}/[draft]") == f"{base}/[draft]"
    assert source_folder(f"{base}/[dx]raft/*") == base
    assert paths(f"{base}/[draft]") == {"a*.txt", "b.txt"}
    assert paths(f"{base}/[draft]/a*.txt") == {"a*.txt"}


@pytest.mark.parametrize("glob", ["*.txt", "**/*.txt", "**", "[z]*", "[z].txt"])
@pytest.mark.parametrize("folder", ["a[1]", "x?/b/c*", "[q]/[q]"])
def test_a_glob_in_a_folder_whose_name_looks_like_one(base: str, folder: str, glob: str) -> None:
    # The neighbours are folders that the names would match.
    fill(base, f"{folder}/z.txt", "a1/z.txt", "xx/b/cc/z.txt", "q/q/z.txt", "[q]/q/z.txt")
    [file] = list_source(f"{base}/{folder}/{glob}")
    assert (file.uri, file.path) == (f"{base}/{folder}/z.txt", "z.txt")
    assert source_folder(f"{base}/{folder}/{glob}") == f"{base}/{folder}"
    assert is_file_of(f"{base}/{folder}/{glob}", file.uri)
    assert not is_file_of(f"{base}/{folder}/{glob}", f"{base}/a1/z.txt")


def test_a_file_is_no_folder_of_a_glob(base: str) -> None:
    fill(base, "a*", "ab/c.txt")
    assert paths(f"{base}/a*/*.txt") == {"ab/c.txt"}


@pytest.mark.parametrize(("given", "meant"), [("Reports", "reports"), ("reprots", "reports"), ("x", None)])
def test_a_missing_place_names_its_neighbour(base: str, given: str, meant: str | None) -> None:
    fill(base, "reports/a.txt")
    with pytest.raises(InputError) as caught:
        list(list_source(f"{base}/{given}"))
    # An object store would list all keys of the folder.
    hint = f" Did you mean {meant!r}?" if meant and not base.startswith("s3") else ""
    assert str(caught.value) == f"source: there is no file and no folder {base}/{given}.{hint}"


def test_no_neighbour_is_searched_in_a_large_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucidworks_provider.documents.source._NEIGHBOURS", 3)
    fill(str(tmp_path), "reports/a.txt", "b.txt", "c.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"reprots\. Did you mean 'reports'\?$"):
        list(list_source(f"{tmp_path}/reprots"))
    fill(str(tmp_path), "d.txt")
    with pytest.raises(InputError, match=r"reprots\.$"):
        list(list_source(f"{tmp_path}/reprots"))


def test_no_neighbour_is_searched_in_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[str] = []

    class Store(Flat):
        def ls(self, path: str, *args: Any, **kwargs: Any) -> Any:
            listed.append(path)
            return super().ls(path, *args, **kwargs)

    base = bucket_of(Store(), monkeypatch)
    fill(base, "reports/a.txt")
    listed.clear()
    with pytest.raises(InputError, match=r"reprots\.$"):
        list(list_source(f"{base}/reprots"))
    assert not [path for path in listed if path.strip("/") == "bucket/corpus"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "there is no file and no folder"),
        ("nowhere/*.txt", "matches no file that can be read"),
        ("*.pdf", "1 of other kinds"),
        ("x.pdf", r"of a kind that cannot be read; give \.txt"),
        ("others", "holds no file that can be read .* 1 of other kinds"),
        ("[z-a].txt", "is not a valid glob"),
    ],
)
def test_what_holds_nothing_is_an_error(base: str, source: str, message: str) -> None:
    fill(base, "x.pdf", "others/y.pdf", "others/.z.txt")
    with pytest.raises(InputError, match=message):
        list(list_source(f"{base}/{source}"))


@pytest.mark.parametrize("source", ["data", "./data/*.txt", "file://data", "", " ", None, 5])
def test_what_names_no_place_is_refused(source: Any) -> None:
    with pytest.raises(InputError, match="source is"):
        list(list_source(source))


def test_no_wildcard_for_buckets() -> None:
    with pytest.raises(InputError, match="cannot replace a bucket"):
        list(list_source("memory://buck*/x.txt"))


def test_a_change_is_seen(base: str) -> None:
    fill(base, "sub/a.txt")
    [before] = list_source(base)
    if base.startswith(("s3", "/", "file")):
        assert list(list_source(base)) == [before]
    time.sleep(0.02)
    write_file(f"{base}/sub/a.txt", b"54321")
    [after] = list_source(base)
    assert after.etag != before.etag
    assert after == replace(before, etag=after.etag)


def test_links_and_what_is_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("x")
    (folder / "link.txt").symlink_to(folder / "a.txt")
    (folder / "loop").symlink_to(folder)
    (folder / "above").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.txt")
    (tmp_path / "entry").symlink_to(folder)
    assert paths(str(folder)) == paths(str(tmp_path / "entry")) == {"a.txt", "link.txt"}
    assert f"{folder}/loop links to one of its parent folders" in caplog.text
    with pytest.raises(InputError, match="no file and no folder"):
        list(list_source(str(folder / "pipe.txt")))


@pytest.mark.parametrize(("outside", "expected"), [(False, 49), (True, 7)])
def test_crosswise_links_are_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, outside: bool, expected: int
) -> None:
    # 7 folders with links to each other have 13,699 paths.
    names, source, folders = "0123456", tmp_path / "corpus", tmp_path / "folders"
    fill(str(folders), *(f"{name}/a.txt" for name in names))
    for name in names:
        for other in set(names) - {name}:
            (folders / name / f"to{other}").symlink_to(folders / other)
    if outside:
        source.mkdir()
        (source / "in").symlink_to(folders / "0")
    else:
        folders.rename(source)
        folders.symlink_to(source)
    found = paths(str(source))
    assert len(found) == expected
    assert paths(str(source)) == found
    [warning] = {record.getMessage() for record in caplog.records if "listed elsewhere" in record.message}
    assert f"{source} has {7 * 6 * 5 if not outside else 6 * 5:,} links in linked folders" in warning


CIRCLE = {"corpus/sub": "elsewhere", "elsewhere/on": "moved", "moved/back": "elsewhere"}
INNER = {"corpus/link": "other", "other/hidden": "corpus/.hidden", "other/b": "corpus/b"}
INNER_FILES = ["corpus/.hidden/a.txt", "corpus/b/c.txt", "other/d.txt"]


@pytest.mark.parametrize(
    ("links", "files", "glob", "expected"),
    [
        # A folder that became a link; in a circle of two links each folder is listed once on the way.
        (
            CIRCLE,
            ["corpus/b.txt", "elsewhere/a.txt", "moved/c.txt"],
            "",
            {"b.txt", "sub/a.txt", "sub/on/c.txt"},
        ),
        (CIRCLE, ["corpus/b.txt", "elsewhere/a.txt", "moved/c.txt"], "*/a.txt", {"sub/a.txt"}),
        # Two links to one folder are two folders.
        (
            {"corpus/x": "other", "corpus/y": "other"},
            ["other/a.txt", "other/sub/b.txt"],
            "",
            {"x/a.txt", "x/sub/b.txt", "y/a.txt", "y/sub/b.txt"},
        ),
        # A link in a linked folder is followed if its target is not listed.
        (INNER, INNER_FILES, "", {"b/c.txt", "link/d.txt", "link/hidden/a.txt"}),
        (INNER, INNER_FILES, "l*/**", {"link/d.txt", "link/hidden/a.txt", "link/b/c.txt"}),
        # As git-sync makes them.
        (
            {"corpus/repo": "git", "git/current": "git/.worktrees/abc"},
            ["git/.worktrees/abc/a.txt", "git/b.txt"],
            "",
            {"repo/current/a.txt", "repo/b.txt"},
        ),
        (
            {"corpus/l": "other", "other/m": "corpus/_temporary/k", "other/n": "other/_spark_metadata"},
            ["corpus/_temporary/k/a.txt", "other/_spark_metadata/b.txt", "corpus/c.txt"],
            "",
            {"l/m/a.txt", "l/n/b.txt", "c.txt"},
        ),
        # Globs enter corpus/x, but what matches depends on the path.
        ({"corpus/l": "other", "other/m": "corpus/x"}, ["corpus/x/a.txt"], "*/*/*.txt", {"l/m/a.txt"}),
        ({"corpus/l": "other", "other/m": "corpus/x"}, ["corpus/x/a.txt"], "**/m/*.txt", {"l/m/a.txt"}),
        ({"corpus/l": "other", "other/m": "corpus/x"}, ["corpus/x/a.txt"], "l/**/*.txt", {"m/a.txt"}),
        ({"corpus/l": "other", "other/m": "corpus/x/y"}, ["corpus/x/y/a.txt"], "*/*/*.txt", {"x/y/a.txt"}),
        # The path of a link has another depth than the path of its target.
        (
            {"corpus/l": "other", "other/m": "elsewhere/y", "corpus/x/k": "elsewhere"},
            ["elsewhere/y/a.txt"],
            "*/*/*.txt",
            {"l/m/a.txt"},
        ),
        ({"corpus/l": "other", "other/m": "corpus/x"}, ["corpus/x/a.txt"], "**/*.txt", {"x/a.txt"}),
        (
            {"corpus/x": "t", "corpus/y/p": "t", "corpus/l": "other", "other/z/x": "t"},
            ["t/a.txt"],
            "**/x/**/*.txt",
            {"x/a.txt"},
        ),
    ],
)
def test_links(
    tmp_path: Path, links: dict[str, str], files: list[str], glob: str, expected: set[str]
) -> None:
    fill(str(tmp_path), *files)
    for link, target in links.items():
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / target).mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(tmp_path / target)
    assert paths(f"{tmp_path}/corpus/{glob}") == expected


@pytest.mark.parametrize("glob", ["**/to1/*.txt", "**/to1/**/to2/*.txt", "*/*/*/*/*/*.txt"])
def test_crosswise_links_of_a_glob_are_bounded(tmp_path: Path, glob: str) -> None:
    names, git = "0123456", tmp_path / "git"
    fill(str(git), *(f".hidden/{name}/a.txt" for name in names))
    (tmp_path / "corpus").mkdir()
    for name in names:
        (tmp_path / "corpus" / name).symlink_to(git / ".hidden" / name)
        for other in set(names) - {name}:
            (git / ".hidden" / name / f"to{other}").symlink_to(git / ".hidden" / other)
    found = paths(f"{tmp_path}/corpus/{glob}")
    # By each part of the glob, a folder is entered by at most the 49 links once.
    assert 0 < len(found) <= 49 * len(glob.split("/"))
    assert paths(f"{tmp_path}/corpus/{glob}") == found


@pytest.mark.parametrize("glob", ["**", "*", "a*.txt", "a?b.txt", "a[!x]b.txt", "**/*.txt"])
def test_a_name_with_a_line_break_matches(tmp_path: Path, glob: str) -> None:
    fill(str(tmp_path), "a\nb.txt")
    assert paths(f"{tmp_path}/{glob}") == {"a\nb.txt"}
    assert is_file_of(f"{tmp_path}/{glob}", f"{tmp_path}/a\nb.txt")


@pytest.mark.parametrize(
    ("name", "target", "reason", "detail"),
    [
        *(
            (f"gone.{suffix}", "nowhere", Reason.MISSING, f"gone.{suffix} is a link whose target is gone.")
            for suffix in ("txt", "jsonl", "csv", "parquet")
        ),
        *((one, one, Reason.UNREADABLE, f"{one} cannot be read") for one in ("self.txt", "self.jsonl")),
    ],
)
def test_a_link_that_cannot_be_followed_is_one_reject(
    name: str, target: str, reason: Reason, detail: str, tmp_path: Path
) -> None:
    fill(str(tmp_path), "a.txt")
    (tmp_path / name).symlink_to(tmp_path / target)
    files = {file.path: file for file in list_source(str(tmp_path))}
    assert files.keys() == {"a.txt", name}
    [reject] = read_file_documents(files[name], ReadOptions())
    assert isinstance(reject, RejectedDocument)
    assert (reject.id, reject.reason) == (name, reason)
    assert f"{tmp_path}/{detail}" in reject.detail


@pytest.mark.parametrize("exact", [False, True])
def test_a_link_whose_target_is_gone_counts_no_bytes(tmp_path: Path, exact: bool) -> None:
    fill(str(tmp_path), "a.txt")
    for number in range(9):
        (tmp_path / f"{number}.txt").symlink_to(tmp_path / "nowhere")
    with RunDatabase() as db:
        read = partial(read_file_documents, options=ReadOptions())
        plan = Plan(db, read=read, reuse=True, max_text_bytes=1000)
        found = plan.scan(list_source(str(tmp_path)), exact=exact)
    assert (found.documents, found.bytes) == (10, 5)


@pytest.mark.parametrize("name", ["share", "share.2", "deep/share"])
def test_a_link_to_a_folder_that_is_gone_is_not_passed_over(name: str, tmp_path: Path) -> None:
    # As of a share that is not mounted.
    fill(str(tmp_path), "a.txt", "deep/b.txt")
    link = tmp_path / name
    link.symlink_to(tmp_path / "nowhere")
    message = f"{link} cannot be read: it is a link whose target is gone or locked"
    for source in ("", "/**/*.txt", *(["/*/*.txt"] if "/" not in name else [])):
        with pytest.raises(StorageError, match=message):
            list(list_source(f"{tmp_path}{source}"))
    # Neither pattern enters it.
    assert paths(f"{tmp_path}/*.txt") == {"a.txt"}
    assert paths(f"{tmp_path}/*") == {"a.txt"}
    link.rename(link.with_name(".hidden"))
    assert paths(str(tmp_path)) == {"a.txt", "deep/b.txt"}


def scan_as(monkeypatch: pytest.MonkeyPatch, seen: Callable[[list[Any]], list[Any]]) -> None:
    scandir = os.scandir

    class Scanned(list[Any]):
        def __enter__(self) -> "Scanned":
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("os.scandir", lambda path: Scanned(seen(list(scandir(path)))))


def test_a_link_into_a_locked_folder_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may enter all folders.
    fill(str(tmp_path), "corpus/a.txt", "locked/in/b.txt")
    (tmp_path / "corpus/share").symlink_to(tmp_path / "locked/in")

    class Locked:
        name, path = "share", str(tmp_path / "corpus/share")

        def is_symlink(self) -> bool:
            return True

        def is_dir(self) -> bool:
            raise PermissionError(13, "Permission denied")

    scan_as(monkeypatch, lambda entries: [Locked() if entry.is_symlink() else entry for entry in entries])
    with pytest.raises(StorageError, match="corpus/share cannot be read"):
        list(list_source(str(tmp_path / "corpus")))


@pytest.mark.parametrize("link", [False, True])
def test_what_is_deleted_while_its_folder_is_listed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: bool
) -> None:
    fill(str(tmp_path), "corpus/a.txt", "b.txt")
    gone = tmp_path / "corpus/gone"
    gone.symlink_to(tmp_path / "b.txt") if link else gone.write_text("x")

    def late(entries: list[Any]) -> list[Any]:
        gone.unlink(missing_ok=True)
        return entries

    scan_as(monkeypatch, late)
    assert paths(str(tmp_path / "corpus")) == {"a.txt"}


@pytest.mark.parametrize(("place", "name"), [("disk", "os.scandir"), ("memory://bucket", "ls")])
def test_a_folder_that_cannot_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, name: str
) -> None:
    # Its documents would count as gone, and be removed from the dataset.
    memory_store()
    source = str(tmp_path) if place == "disk" else place
    fill(source, "a.txt", "locked/b.txt")
    listed = os.scandir if place == "disk" else MemoryFileSystem.ls

    def refuse(*given: Any, **options: Any) -> Any:
        if "locked" in str(given[-1]):
            raise PermissionError(13, "Permission denied")
        return listed(*given, **options)

    monkeypatch.setattr(*((name,) if place == "disk" else (MemoryFileSystem, name)), refuse)
    with pytest.raises(StorageError, match="locked/ cannot be read: PermissionError"):
        list(list_source(source))


def test_what_goes_while_it_is_listed_is_gone(tmp_path: Path) -> None:
    fill(str(tmp_path), "a/1.txt", "b/1.txt")
    listing = list_source(str(tmp_path))
    first = next(listing)
    other = {"a": "b", "b": "a"}[first.path[0]]
    (tmp_path / other / "1.txt").unlink()
    (tmp_path / other).rmdir()
    assert list(listing) == []


def test_a_name_that_is_no_text_can_be_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("x")
    [file] = list_source(str(tmp_path))
    assert file.path == "caf\\xe9.txt"
    file.uri.encode()
    assert "names are not UTF-8" in caplog.text


@pytest.mark.parametrize(
    ("info", "etag"),
    [
        ({"ETag": '"abc"', "LastModified": 5}, "etag:abc"),
        ({"etag": "0x8D"}, "etag:0x8D"),
        ({"LastModified": datetime(2026, 1, 1, tzinfo=UTC)}, "mtime:1767225600000000000"),
        ({"mtime": 5.5}, "mtime:5500000000"),
        ({"updated": "2026-01-01T00:00:00Z"}, "mtime:2026-01-01T00:00:00Z"),
    ],
)
def test_what_stores_call_a_change(info: dict[str, Any], etag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_store()
    entry = {"name": "/bucket/a.txt", "type": "file", "size": 7, **info}
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: entry)
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda *_, **__: [entry])
    found = find_entry("memory://bucket/a.txt")
    assert found is not None
    assert (found.name, found.size, found.etag) == ("a.txt", 7, etag)
    assert list(list_folder("memory://bucket")) == [found]


def test_what_tools_put_into_a_store_for_a_folder_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    memory_store()
    names = {"": "directory", "/": "file", "/sub/": "file", "/a.txt": "file", "/sub": "directory"}
    listed = [{"name": f"/bucket{name}", "type": kind, "size": 0} for name, kind in names.items()]
    monkeypatch.setattr(MemoryFileSystem, "ls", lambda *_, **__: listed)
    assert [(entry.name, entry.folder) for entry in list_folder("memory://bucket")] == [
        ("a.txt", False),
        ("sub", True),
    ]


def test_a_store_without_change_markers_never_looks_unchanged() -> None:
    memory_store()
    fill("memory://bucket", "a.txt")
    etags = {file.etag for _ in range(2) for file in list_source("memory://bucket")}
    assert len(etags) == 2


def test_only_flat_stores_are_listed_at_once() -> None:
    assert list_below("memory://bucket") is None
    assert list_below("/data") is None
    assert list_below("gs://bucket/x") is not None


def test_many_files_take_little_time_and_no_memory(tmp_path: Path) -> None:
    for folder in range(10):
        (tmp_path / str(folder)).mkdir()
        for name in range(500):
            (tmp_path / str(folder) / f"{name}.txt").touch()
    begin = time.process_time()
    assert sum(1 for _ in list_source(str(tmp_path))) == 5000
    # 20 ms where it was written.
    assert time.process_time() - begin < 0.5
    tracemalloc.start()
    try:
        assert sum(1 for _ in list_source(str(tmp_path))) == 5000
        # A list of them takes 1.5 MB; other threads of the test process allocate as well.
        assert tracemalloc.get_traced_memory()[1] < 750_000
    finally:
        tracemalloc.stop()
