# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a source: a file, a folder, a glob or a Delta table on any storage."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import BinaryIO, TypeVar

from lucidworks_provider.delta import check_installed
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import (
    Entry,
    find_entry,
    list_below,
    list_folder,
    local_path,
    read_file,
    reading,
    without_scheme,
)
from lucidworks_provider.threads import read_ahead

log = logging.getLogger(__name__)

R = TypeVar("R")

# Files up to this size are read by one request.
_SMALL = 4 << 20
# Limit of the contents that are read ahead.
_AHEAD_BYTES = 32_000_000


class Format(StrEnum):
    """The format of a file, by its suffix."""

    TEXT = "text"
    HTML = "html"
    JSON_LINES = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    DELTA = "delta"


# Folders of table formats and their writers that have no data.
_LOG = "_delta_log"
_OF_WRITERS = {_LOG, "_delta_index", "_change_data", "_temporary", "_spark_metadata"}
_MAGIC = re.compile(r"[*?[]")
# Tokens of a glob: a class of characters, stars, or another character.
_TOKENS = re.compile(r"\[(!?)(\][^\]]*|[^\]]+)\]|(\*+)|(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """
    A file of a source.

    :param path: below the source; the id of a file of one document. For a glob, below the last folder before the
        first wildcard; for a source that is a file, its name.
    :param size: bytes.
    :param etag: changes when the file does: ``etag:…``, ``mtime:<ns>``, or ``seen:<ns>``, the time of the listing, if
        the store has neither.
    :param contents: of a small file that was fetched.
    """

    uri: str
    path: str
    size: int
    etag: str
    format: Format
    contents: bytes | None = field(default=None, compare=False, repr=False)


def fetch(file: SourceFile) -> SourceFile:
    """
    Read a small file, by one request; any other file stays as it is.

    :raises StorageError: the storage cannot be read.
    """
    if not _is_small(file):
        return file
    contents = read_file(file.uri, _SMALL + 1)
    # A file that has grown is read in parts. Of one that is gone, opening it is the error.
    return file if contents is None or len(contents) > _SMALL else replace(file, contents=contents)


def open_file(file: SourceFile) -> AbstractContextManager[BinaryIO]:
    """
    Open a file for random access, all of one version.

    :raises StorageError: the file cannot be read, also later.
    """
    return reading(file.uri) if file.contents is None else io.BytesIO(file.contents)


def read_files_ahead(
    work: Callable[[SourceFile], R], files: Iterable[SourceFile]
) -> Generator[R, None, None]:
    """
    :func:`~lucidworks_provider.threads.read_ahead` for files, with a limit of the contents in memory.

    :param work: reads a file of one document, and fetches one of records; thread-safe.
    """
    return read_ahead(work, files, size=_bytes_ahead, max_bytes=_AHEAD_BYTES)


def _bytes_ahead(file: SourceFile) -> int:
    whole = file.format in {Format.TEXT, Format.HTML}
    return max(file.size, 0) if whole or _is_small(file) else 0


def _is_small(file: SourceFile) -> bool:
    return file.format is not Format.DELTA and 0 < file.size <= _SMALL


@dataclass(frozen=True, slots=True)
class Formats:
    """
    Which files are read.

    :param by_suffix: the format of each suffix of one or two parts, such as ``csv`` and ``csv.gz``.
    """

    by_suffix: Mapping[str, Format]

    def of(self, name: str) -> Format | None:
        """The format of a file by its name; None to skip it."""
        _, *suffixes = name.lower().split(".")
        return self.by_suffix.get("".join(suffixes[-1:])) or self.by_suffix.get(".".join(suffixes[-2:]))

    @property
    def suffixes(self) -> str:
        """For messages."""
        return ", ".join(f".{suffix}" for suffix in self.by_suffix)


_LINES = {"jsonl": Format.JSON_LINES, "ndjson": Format.JSON_LINES, "csv": Format.CSV, "tsv": Format.CSV}
DOCUMENTS = Formats(
    {
        **{"txt": Format.TEXT, "md": Format.TEXT, "html": Format.HTML, "htm": Format.HTML},
        **_LINES,
        "parquet": Format.PARQUET,
        **{f"{suffix}.gz": form for suffix, form in _LINES.items()},
    }
)


def list_source(
    source: str, formats: Formats = DOCUMENTS, warn: Callable[..., None] = log.warning
) -> Iterator[SourceFile]:
    """
    Iterate over the files of a source, in no order.

    A folder with a ``_delta_log`` is a Delta table; its files are those of the newest version. Hidden files and
    folders (``.x``) and those of table writers (``_temporary``, ``_spark_metadata`` etc.) are skipped, and files of
    other formats are counted in one warning. Symbolic links are followed, except to a parent folder. Memory is
    bounded by the listings of some folders directly below the source.

    :param source: absolute path or ``ObjectStoragePath`` URI of a file, folder or glob (``*``, ``?``, ``[…]``,
        and ``**`` for any number of folders).
    :param warn: called with a message and its values.
    :raises InputError: there is no such source, or it has no file that can be read. Raised during the iteration.
    :raises StorageError: a folder cannot be read; its documents would otherwise count as deleted.
    """
    base = _checked(source)
    found = _found(base)
    if found is not None and not found.folder:
        if (one := formats.of(found.name)) is None:
            raise InputError(
                f"{base} is of a kind that cannot be read; give {formats.suffixes}, or a folder of them."
            )
        yield SourceFile(base, found.name, found.size, found.etag, one)
        return
    if found is not None and find_entry(f"{base}/{_LOG}") is not None:
        yield from _delta_files(base)
        return
    walk = _globbing(base) if found is None else _Walk(base)
    walk.formats, walk.warn = formats, warn
    some = False
    for file in walk.files():
        some = True
        yield file
    walk.report()
    if not some:
        raise InputError(
            f"source: {base} {'matches' if walk.matches else 'holds'} no file that can be read "
            f"({formats.suffixes}), and {walk.others:,} of other kinds."
        )


def _delta_files(uri: str) -> Iterator[SourceFile]:
    """
    The data files of a table's newest version.

    :param uri: of the folder that has the log.
    :raises InputError: the table has no rows, or needs unsupported features, which are named.
    :raises StorageError: the log cannot be read.
    """
    check_installed()
    from lucidworks_provider.delta.log import read_table

    table = read_table(uri)
    if table is None or not table.files:
        raise InputError(f"source: the Delta table {uri} has no rows.")
    for path, file in table.files.items():
        etag = f"delta:{file.modified}:{'' if file.vector is None else file.vector.unique_id}"
        yield SourceFile(f"{table.uri}@v{table.version}", path, file.size, etag, Format.DELTA)


def _checked(source: object) -> str:
    """The source without slashes at its end."""
    if not isinstance(source, str) or not source.strip():
        raise InputError(f"source is {source!r}; give the URI of a file, a folder or a glob.")
    local = local_path(source.strip())
    if local is not None and not local.is_absolute():
        # Workers have different working directories.
        raise InputError(f"source is {source!r}; give an absolute path (file:///…) or another storage's URI.")
    scheme, separator, rest = source.strip().rpartition("://")
    return f"{scheme}{separator}{rest.rstrip('/')}"


def source_folder(source: str) -> str:
    """
    The file or folder of a source; for a glob, the last folder before its first wildcard.

    A name with ``[``, ``]``, ``?`` or ``*`` is no glob if such a file or folder exists.

    :param source: as for :func:`list_source`.
    :raises StorageError: the storage cannot be read.
    """
    return _split(_checked(source))[0]


def may_contain(source: str, folder: str) -> bool:
    """
    Whether files below a folder can be files of the source, by their paths.

    :param source: as for :func:`list_source`.
    :param folder: URI; need not exist.
    :raises StorageError: the storage cannot be read.
    """
    root, pattern = _split(_checked(source))
    above, below = (f"{without_scheme(place).rstrip('/')}/" for place in (root, folder))
    path = below.removeprefix(above)
    return below.startswith(above) and (not pattern or _reaches(pattern, path.split("/")[:-1]))


def is_file_of(source: str, uri: str) -> bool:
    """
    Whether a file is one of the source, by its path.

    :param source: as for :func:`list_source`.
    :param uri: of the file; need not exist.
    :raises StorageError: the storage cannot be read.
    """
    root, parts = _split(_checked(source))
    base, path = without_scheme(root).rstrip("/"), without_scheme(uri)
    if not path.startswith(f"{base}/"):
        return path == base
    return not parts or re.fullmatch(_expression(parts), path[len(base) + 1 :]) is not None


def _found(base: str) -> Entry | None:
    # The slash of the root of a disk must stay.
    return find_entry(base if base.rpartition("/")[2] else f"{base}/")


def _split(base: str) -> tuple[str, list[str]]:
    """A folder, and the parts of the glob below it; no parts if the source is no glob."""
    magic = _MAGIC.search(base)
    if magic is None or _found(base) is not None:
        return base, []
    folder = base[: base.rindex("/", 0, magic.start())]
    parts = base[len(folder) + 1 :].split("/")
    try:
        re.compile(_expression(parts))
    except re.error:
        raise InputError(f"source is {base!r}, which is no glob that can be understood.") from None
    return folder, parts


def _globbing(base: str) -> _Walk:
    folder, parts = _split(base)
    if not parts:
        raise InputError(f"source: there is no file and no folder {base}.")
    if folder.endswith(":/"):
        raise InputError(f"source is {base!r}; a wildcard cannot replace a bucket.")
    return _Walk(folder, re.compile(_expression(parts)), parts)


def _reaches(parts: list[str], folders: list[str]) -> bool:
    """Whether a pattern can match below a folder."""
    for part, folder in zip(parts, folders, strict=False):
        if part == "**":
            return True
        if not re.fullmatch(_part(part), folder):
            return False
    return len(parts) > len(folders)


@dataclass(slots=True)
class _Walk:
    """
    Walks through a folder.

    :param base: the folder, without a slash at its end.
    :param matches: pattern of the paths below the folder; None for all.
    :param parts: the parts of the glob of ``matches``.
    :param others: number of files of other formats.
    :param misnamed: number of files whose names are not UTF-8.
    """

    base: str
    matches: re.Pattern[str] | None = None
    parts: list[str] = field(default_factory=list)
    others: int = 0
    misnamed: int = 0
    first_other: str = ""
    formats: Formats = DOCUMENTS
    warn: Callable[..., None] = log.warning

    def files(self) -> Iterator[SourceFile]:
        """Files that match and can be read."""
        # Paths of folders that are not listed yet.
        folders = [""]
        while folders:
            some, folders = folders, []
            for below, entries in read_ahead(self._list, some):
                yield from self._files(below, entries, folders)

    def _list(self, below: str) -> tuple[str, Iterable[Entry]]:
        place = f"{self.base}/{below}"
        # The source itself is listed without its subfolders, as it may have all files.
        whole = list_below(place) if below and (not self.parts or "**" in self.parts) else None
        entries = whole or list_folder(place, self.warn)
        return below, entries if local_path(place) is not None else list(entries)

    def _files(self, below: str, entries: Iterable[Entry], folders: list[str]) -> Iterator[SourceFile]:
        """:param folders: gets the subfolders to list."""
        for entry in entries:
            if "/." in f"/{entry.name}":
                continue
            path = f"{below}{entry.name}"
            parents = set(path.split("/")[: None if entry.folder else -1])
            if _LOG in parents:
                table = f"{self.base}/{path}".partition(f"/{_LOG}")[0]
                raise InputError(
                    f"source: {table} is a Delta table, whose files alone do not say which rows it has. Give "
                    "it a task of its own, with the table as its source."
                )
            if parents & _OF_WRITERS:
                continue
            if entry.folder:
                if not self.parts or _reaches(self.parts, path.split("/")):
                    folders.append(f"{path}/")
            elif file := self._file(path, entry):
                yield file

    def _file(self, path: str, entry: Entry) -> SourceFile | None:
        if self.matches is not None and not self.matches.fullmatch(path):
            return None
        kind = self.formats.of(entry.name)
        if kind is None:
            self.others += 1
            self.first_other = self.first_other or path
            return None
        named = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        # If they differ, no file has this name, so reading it makes a reject.
        self.misnamed += named != path
        return SourceFile(f"{self.base}/{named}", named, entry.size, entry.etag, kind)

    def report(self) -> None:
        """Log what was skipped."""
        if self.others:
            self.warn(
                "%s has %s files of other formats, which are skipped (first: %r); supported are %s.",
                *(self.base, f"{self.others:,}", self.first_other, self.formats.suffixes),
            )
        if self.misnamed:
            self.warn("%s has %s files whose names are not UTF-8; rename them.", self.base, self.misnamed)


def _expression(parts: list[str]) -> str:
    """The regular expression of a glob, for paths below its folder."""
    expression = ""
    for part in parts[:-1]:
        expression += "(?:[^/]+/)*" if part == "**" else f"{_part(part)}/"
    return expression + (".+" if parts[-1] == "**" else _part(parts[-1]))


def _part(part: str) -> str:
    expression = ""
    for negated, characters, stars, other in _TOKENS.findall(part):
        if stars:
            expression += "[^/]*"
        elif characters:
            inside = re.sub(r"([\\\[\]^&~|])", r"\\\1", characters)
            expression += f"(?!/)[{'^' if negated else ''}{inside}]"
        else:
            expression += "[^/]" if other == "?" else re.escape(other)
    return expression
