# SPDX-License-Identifier: Apache-2.0
"""Which files a corpus is made of: those of a folder or a glob on any storage, listed as they come."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from lucidworks_provider.delta import check_installed
from lucidworks_provider.errors import InputError
from lucidworks_provider.listing import Entry, find_entry, list_below, list_folder
from lucidworks_provider.storage import local_path, without_scheme
from lucidworks_provider.threads import read_ahead

log = logging.getLogger(__name__)


class Format(StrEnum):
    """What a file holds, by its suffix."""

    TEXT = "text"
    HTML = "html"
    JSON_LINES = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"
    DELTA = "delta"


_FORMATS = {
    "txt": Format.TEXT,
    "md": Format.TEXT,
    "html": Format.HTML,
    "htm": Format.HTML,
    "jsonl": Format.JSON_LINES,
    "ndjson": Format.JSON_LINES,
    "csv": Format.CSV,
    "tsv": Format.CSV,
    "parquet": Format.PARQUET,
}
_COMPRESSED = {f"{suffix}.gz": _FORMATS[suffix] for suffix in ("jsonl", "ndjson", "csv", "tsv")}
# What table formats and their writers keep beside their data.
_LOG = "_delta_log"
_OF_WRITERS = {_LOG, "_delta_index", "_change_data", "_temporary", "_spark_metadata"}
_MAGIC = re.compile(r"[*?[]")
# What a pattern is made of: a class of characters, a run of stars, or anything else.
_TOKENS = re.compile(r"\[(!?)(\][^\]]*|[^\]]+)\]|(\*+)|(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """
    One file of a corpus.

    :param uri: where it is.
    :param path: below the source, "/" between; the id of its document, if it holds one. Of a glob, below the
        last folder before the first wildcard; of a source that is a file, its name.
    :param size: bytes.
    :param etag: another one when the file was changed: ``etag:…``, ``mtime:<ns>``, or ``seen:<ns>`` where
        the store tells neither, which is another one in each listing.
    """

    uri: str
    path: str
    size: int
    etag: str
    format: Format


@dataclass(frozen=True, slots=True)
class Formats:
    """
    Which files are read.

    :param of: the format of a file by its name, None for one that is passed over.
    :param suffixes: the same for people.
    """

    of: Callable[[str], Format | None]
    suffixes: str


def _format(name: str) -> Format | None:
    _, *suffixes = name.lower().split(".")
    return _FORMATS.get("".join(suffixes[-1:])) or _COMPRESSED.get(".".join(suffixes[-2:]))


DOCUMENTS = Formats(_format, ", ".join(f".{suffix}" for suffix in (*_FORMATS, *_COMPRESSED)))


def list_source(source: str, formats: Formats = DOCUMENTS) -> Iterator[SourceFile]:
    """
    The files of a corpus, in no order, found while they are asked for.

    A folder with a ``_delta_log`` is a Delta table, whose data files are those of its newest version. Within a
    folder hidden files and folders (``.x``) and those of table writers (``_temporary``, ``_spark_metadata`` and the
    like) are passed over, and files of other kinds are counted in one warning. Links are followed, but for one to
    a folder that it lies in. A local folder takes no memory; of an object store, some folders right below the source
    are listed at a time.

    :param source: absolute path or ``ObjectStoragePath`` URI of a file, folder or glob (``*``, ``?``, ``[…]``,
        and ``**`` for any number of folders).
    :param formats: those of documents, or others.
    :raises InputError: there is nothing, or nothing of a kind that can be read. With the first file at the
        earliest, as this is a generator.
    :raises StorageError: a folder cannot be read. What is in it would otherwise count as gone.
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
    walk = _Walk(base)
    if found is None:
        walk = _globbing(base)
    walk.formats = formats
    some = False
    for file in walk.files():
        some = True
        yield file
    walk.warn()
    if not some:
        raise InputError(
            f"source: {base} {'matches' if walk.matches else 'holds'} no file that can be read "
            f"({formats.suffixes}), and {walk.others:,} of other kinds."
        )


def _delta_files(uri: str) -> Iterator[SourceFile]:
    """
    The data files of a table's newest version.

    :param uri: of the folder that has the log.
    :raises InputError: the table needs what is not supported, which is named; or it has no rows.
    :raises StorageError: its log cannot be read.
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
        # Workers have working directories of their own.
        raise InputError(f"source is {source!r}; give an absolute path (file:///…) or another storage's URI.")
    scheme, separator, rest = source.strip().rpartition("://")
    return f"{scheme}{separator}{rest.rstrip('/')}"


def source_folder(source: str) -> str:
    """
    The file or folder that a source is, or of a glob the last folder before its first wildcard.

    A name with ``[``, ``]``, ``?`` or ``*`` is that of a file or folder where there is one.

    :param source: as of :func:`list_source`.
    :raises StorageError: the storage cannot be read.
    """
    return _split(_checked(source))[0]


def may_hold(source: str, folder: str) -> bool:
    """
    Whether a file below a folder can be one of the source, by its path.

    :param source: as of :func:`list_source`.
    :param folder: URI of the folder, which need not exist.
    :raises StorageError: the storage cannot be read.
    """
    root, pattern = _split(_checked(source))
    above, below = (f"{without_scheme(place).rstrip('/')}/" for place in (root, folder))
    path = below.removeprefix(above)
    return below.startswith(above) and (not pattern or _reaches(pattern, path.split("/")[:-1]))


def _found(base: str) -> Entry | None:
    # The root of a disk is nothing but the slash that every path begins with.
    return find_entry(base if base.rpartition("/")[2] else f"{base}/")


def _split(base: str) -> tuple[str, list[str]]:
    """A folder, and the parts of a pattern below it; none where the source is no glob."""
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
        raise InputError(f"source is {base!r}; a wildcard cannot stand for a bucket.")
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
    Goes through a folder.

    :param base: the folder, without a slash at its end.
    :param matches: what paths below the folder must look like; None for all.
    :param parts: the same as parts of a glob.
    :param others: files of kinds that cannot be read.
    :param misnamed: files whose names are no UTF-8, so that no text can name them.
    """

    base: str
    matches: re.Pattern[str] | None = None
    parts: list[str] = field(default_factory=list)
    others: int = 0
    misnamed: int = 0
    first_other: str = ""
    formats: Formats = DOCUMENTS

    def files(self) -> Iterator[SourceFile]:
        """Those that match and can be read."""
        # Folders that are still to be read, as paths below the source.
        folders = [""]
        while folders:
            some, folders = folders, []
            for below, entries in read_ahead(self._list, some):
                yield from self._files(below, entries, folders)

    def _list(self, below: str) -> tuple[str, Iterable[Entry]]:
        place = f"{self.base}/{below}"
        # What lies right below the source is listed by itself, for it may hold all there is.
        whole = list_below(place) if below and (not self.parts or "**" in self.parts) else None
        entries = whole or list_folder(place)
        return below, entries if local_path(place) is not None else list(entries)

    def _files(self, below: str, entries: Iterable[Entry], folders: list[str]) -> Iterator[SourceFile]:
        """:param folders: gets those that are to be read, too."""
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
        if not _is_text(path):
            # Under this name it is not found when it should be read, which makes it a reject.
            self.misnamed += 1
            path = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        return SourceFile(f"{self.base}/{path}", path, entry.size, entry.etag, kind)

    def warn(self) -> None:
        """Say what was left out."""
        if self.others:
            log.warning(
                "%s has %s files of kinds that are not read (first: %r); %s are.",
                *(self.base, f"{self.others:,}", self.first_other, self.formats.suffixes),
            )
        if self.misnamed:
            log.warning("%s has %s files whose names are no UTF-8; rename them.", self.base, self.misnamed)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _expression(parts: list[str]) -> str:
    """A glob as a regular expression for paths below its folder."""
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
