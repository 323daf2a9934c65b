# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a source: a file, a folder, a glob or a Delta table on any storage."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain, islice
from pathlib import PurePath
from typing import BinaryIO, TypeVar

from lucidworks_provider.client.options import did_you_mean
from lucidworks_provider.delta import check_installed
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import (
    Entry,
    comparable,
    find_entry,
    list_below,
    list_folder,
    list_unnamed,
    local_path,
    read_file,
    reading,
    split_uri,
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
# Folders of other table formats, by their metadata.
_OTHER_TABLES = {
    "an Iceberg": re.compile(
        r"(?:(.*)/)?metadata/(?:v\d+|\d+-[0-9a-f-]{36})(?:\.\w+)?\.metadata\.json", re.DOTALL
    ),
    "a Hudi": re.compile(r"(?:(.*)/)?\.hoodie(?:/.*)?", re.DOTALL),
}
_MAGIC = re.compile(r"[*?[]")
# What source_folder has returned for names with magic.
_folders: dict[str, str] = {}
# A folder with more names is not searched for the nearest one.
_NEIGHBOURS = 1_000
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
        return ", ".join(f".{suffix}" for suffix in self.by_suffix)


_LINES = {"csv": Format.CSV, "jsonl": Format.JSON_LINES, "ndjson": Format.JSON_LINES, "tsv": Format.CSV}
_COMPRESSED = {f"{suffix}.{end}": form for end in ("gz", "zst") for suffix, form in _LINES.items()}
_TABLES = {"parquet": Format.PARQUET, **_LINES, **_COMPRESSED}
TABLES = Formats(_TABLES)
DOCUMENTS = Formats(
    {"txt": Format.TEXT, "md": Format.TEXT, "html": Format.HTML, "htm": Format.HTML, **_TABLES}
)


def list_source(
    source: str, formats: Formats = DOCUMENTS, warn: Callable[..., None] = log.warning
) -> Iterator[SourceFile]:
    """
    Iterate over the files of a source, in no order.

    A folder with a ``_delta_log`` is a Delta table; its files are those of the newest version. Hidden files and
    folders (``.x``) and those of table writers (``_temporary``, ``_spark_metadata`` etc.) are skipped, and files of
    other formats are counted in one warning. Symbolic links are followed, except to a parent folder, and in linked
    folders to what is listed elsewhere. Memory is bounded by the listings of some folders directly below the source.

    :param source: absolute path or ``ObjectStoragePath`` URI of a file, folder or glob (``*``, ``?``, ``[…]``,
        and ``**`` for any number of folders).
    :param warn: called with a message and its values.
    :raises InputError: there is no such source, or it has no file that can be read. Raised during the iteration.
    :raises StorageError: a folder, or a link that may be one, cannot be read; its documents would otherwise count as
        deleted.
    """
    base, parts = _split(_checked(source))
    found = None if parts else _found(base)
    if found is None and not parts:
        raise InputError(f"source: there is no file and no folder {base}.{_neighbour(base)}")
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
    walk = _Walk(base, parts or ["**"], formats, warn)
    some = False
    for file in walk.files():
        some = True
        yield file
    walk.report()
    if not some:
        raise InputError(
            f"source: {_checked(source)} {'matches' if parts else 'holds'} no file that can be read "
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

    Names with ``[``, ``]``, ``?`` or ``*`` are not wildcards while folders, or at the end a file, of that name exist.

    :param source: as for :func:`list_source`.
    :raises StorageError: the storage cannot be read.
    """
    return _split(_checked(source))[0]


def known_folder(source: str) -> str | None:
    """
    :func:`source_folder` of a source with ``[``, ``]``, ``?`` or ``*``, once this process has read it; else None.

    Reads no storage.
    """
    return _folders.get(_checked(source))


def may_contain(source: str, folder: str, names: Iterable[str]) -> bool:
    """
    Whether files below a folder can be files of the source, by their paths.

    :param source: as for :func:`list_source`.
    :param folder: URI; need not exist.
    :param names: of what the folder itself has; its subfolders may have files of any name.
    :raises StorageError: the storage cannot be read.
    """
    root, parts = _split(_checked(source))
    above, below = (f"{_plain(place)}/" for place in (root, folder))
    if not below.startswith(above):
        return False
    folders = below.removeprefix(above).split("/")[:-1]
    if not parts or not _positions(parts, folders):
        return not parts
    if "**" in parts or len(parts) > len(folders) + 1:
        return True
    return any(re.fullmatch(_part(parts[-1]), name) for name in names)


def is_file_of(source: str, uri: str) -> bool:
    """
    Whether a file is one of the source, by its path.

    :param source: as for :func:`list_source`.
    :param uri: of the file; need not exist.
    :raises StorageError: the storage cannot be read.
    """
    root, parts = _split(_checked(source))
    base, path = _plain(root), comparable(uri)
    if not path.startswith(f"{base}/"):
        return path == base
    return not parts or re.fullmatch(_expression(parts), path[len(base) + 1 :]) is not None


def _plain(folder: str) -> str:
    # The slash of the root of a disk must stay.
    return comparable(f"{folder}/").rstrip("/")


def _found(base: str) -> Entry | None:
    # The slash of the root of a disk must stay.
    return find_entry(base if base.rpartition("/")[2] else f"{base}/")


def _split(base: str) -> tuple[str, list[str]]:
    """
    A folder, and the parts of the glob below it; no parts if the source is no glob.

    :raises InputError: a wildcard is in the name of a bucket, or the glob cannot be understood.
    """
    names = base.split("/")
    for number, name in enumerate(names, 1):
        if not _MAGIC.search(name):
            continue
        # Of a URI, the third part is the bucket.
        if number == 3 and local_path(base) is None:
            raise InputError(f"source is {base!r}; a wildcard cannot replace a bucket.")
        if not _is_literal("/".join(names[:number]), last=number == len(names)):
            break
    else:
        if _MAGIC.search(base):
            _folders[base] = base
        return base, []
    folder, parts = "/".join(names[: number - 1]), names[number - 1 :]
    try:
        re.compile(_expression(parts))
    except re.error:
        raise InputError(f"source is {base!r}, which is not a valid glob.") from None
    _folders[base] = folder
    return folder, parts


def _is_literal(place: str, *, last: bool) -> bool:
    """Whether there is a folder of this name, or, at the end of a source, a file."""
    found = _found(place)
    # A store may have a file and a folder of one name.
    return found is not None and (
        last or found.folder or any(True for _ in list_below(place) or list_folder(place))
    )


def _neighbour(base: str) -> str:
    """A sentence with the nearest name in the same folder; empty if none is near."""
    parent, name = split_uri(base)
    # An object store lists all keys of a folder, page by page.
    if parent.endswith(":/") or list_below(f"{parent}/") is not None:
        return ""
    try:
        entries = list_folder(f"{parent}/", lambda *_: None)
        names = [entry.name for entry in islice(entries, _NEIGHBOURS + 1)]
    except StorageError:
        return ""
    return did_you_mean(name, names) if len(names) <= _NEIGHBOURS else ""


def _positions(
    parts: list[str], folders: Iterable[str], start: Collection[int] = frozenset({0})
) -> frozenset[int]:
    """
    The parts of a pattern that can match next, below some folders; none if it matches nothing there.

    :param start: the parts that can match the first folder.
    """
    now = _with_next(parts, start)
    for folder in folders:
        some = {one for one in now if parts[one] == "**"}
        # The last part is of files.
        some |= {
            one + 1 for one in now - some if one + 1 < len(parts) and re.fullmatch(_part(parts[one]), folder)
        }
        now = _with_next(parts, some)
    return now


def _with_next(parts: list[str], positions: Iterable[int]) -> frozenset[int]:
    """Also the positions after a ``**``, as it can match no folder."""
    some = set(positions)
    for position, part in enumerate(parts[:-1]):
        if part == "**" and position in some:
            some.add(position + 1)
    return frozenset(some)


@dataclass(frozen=True, slots=True)
class _Folder:
    """
    A folder to list.

    :param path: below the base of the walk, with a slash at its end; empty for the base.
    :param target: if it is a link, where it leads.
    :param linked: whether it is within a linked folder.
    """

    path: str
    target: str = ""
    linked: bool = False


@dataclass(slots=True)
class _Walk:
    """
    Walks through a folder.

    :param base: the folder, without a slash at its end.
    :param parts: the parts of a glob below the folder.
    :param others: number of files of other formats.
    :param misnamed: number of files whose names are not UTF-8.
    :param dotted: number of files and folders with ``.`` or ``..`` as a part of their names.
    :param repeated: number of links that are not followed, as their folders are listed elsewhere.
    """

    base: str
    parts: list[str]
    formats: Formats
    warn: Callable[..., None]
    others: int = 0
    misnamed: int = 0
    dotted: int = 0
    repeated: int = 0
    first_other: str = ""
    first_dotted: str = ""
    first_repeated: str = ""
    _matches: re.Pattern[str] = field(init=False)
    _targets: dict[str, frozenset[int]] = field(init=False)

    def __post_init__(self) -> None:
        self._matches = re.compile(_expression(self.parts))
        # The folders that are walked through, by their paths without links, with what the pattern can match there.
        self._targets = {_plain(self.base) or "/": frozenset({0})}

    def files(self) -> Iterator[SourceFile]:
        """Files that match and can be read."""
        folders = [_Folder("")]
        while folders:
            some, folders = folders, []
            for folder, entries in read_ahead(self._list, some):
                yield from self._files(folder, entries, folders)
            folders = self._once(folders)

    def _once(self, folders: list[_Folder]) -> list[_Folder]:
        """Without links in linked folders to what is listed elsewhere; n crosswise links would make n! paths."""
        # By names, so that the next run decides alike.
        nested = {folder.path: folder for folder in folders if folder.linked and folder.target}
        once = [folder for folder in folders if folder.path not in nested]
        for folder in once:
            self._add_target(folder)
        for path, folder in sorted(nested.items()):
            if self._positions(path) <= self._listed(folder.target):
                self.repeated += 1
                self.first_repeated = self.first_repeated or path
            else:
                self._add_target(folder)
                once.append(folder)
        return once

    def _add_target(self, folder: _Folder) -> None:
        if folder.target:
            known = self._targets.get(folder.target, frozenset())
            self._targets[folder.target] = known | self._positions(folder.path)

    def _listed(self, target: str) -> frozenset[int]:
        """What the pattern can match below a folder on the paths by which it is listed anyway."""
        found: frozenset[int] = frozenset()
        for place in ((path := PurePath(target)), *path.parents):
            folders = path.relative_to(place).parts
            if any(name.startswith(".") or name in _OF_WRITERS for name in folders):
                break
            if start := self._targets.get(str(place)):
                found |= _positions(self.parts, folders, start)
        return found

    def _positions(self, path: str) -> frozenset[int]:
        """What the pattern can match in a folder, by its path with a slash at its end."""
        return _positions(self.parts, path.split("/")[:-1])

    def _list(self, folder: _Folder) -> tuple[_Folder, Iterable[Entry]]:
        place = f"{self.base}/{folder.path}"
        # The source itself is listed without its subfolders, as it may have all files.
        whole = list_below(place) if folder.path and "**" in self.parts else None
        entries = whole or list_folder(place, self.warn)
        if whole is None and self._positions(f"{folder.path}/"):
            entries = chain(entries, list_unnamed(place))
        return folder, entries if local_path(place) is not None else list(entries)

    def _files(
        self, folder: _Folder, entries: Iterable[Entry], folders: list[_Folder]
    ) -> Iterator[SourceFile]:
        """:param folders: gets the subfolders to list."""
        for entry in entries:
            path = f"{folder.path}{entry.name}"
            if path.endswith((".metadata.json", ".hoodie")) or ".hoodie/" in path:
                self._refuse_table(path)
            if "/." in f"/{entry.name}":
                if not {".", ".."}.isdisjoint(path.split("/")):
                    self.dotted += 1
                    self.first_dotted = self.first_dotted or path
                continue
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
                if self._positions(f"{path}/"):
                    linked = folder.linked or bool(folder.target)
                    folders.append(_Folder(f"{path}/", entry.target, linked))
            elif file := self._file(path, entry):
                yield file

    def _refuse_table(self, path: str) -> None:
        """:raises InputError: the path is one of the metadata of a table in another format."""
        for kind, metadata in _OTHER_TABLES.items():
            if found := metadata.fullmatch(path):
                table = f"{self.base}/{found[1] or ''}".rstrip("/")
                raise InputError(
                    f"source: {table} is {kind} table, whose folder also has the files of older "
                    "versions. Export its rows as Parquet."
                )

    def _file(self, path: str, entry: Entry) -> SourceFile | None:
        kind = self.formats.of(entry.name)
        if entry.size < 0 and kind is None and self._positions(f"{path}/"):
            raise StorageError(
                f"{self.base}/{path} cannot be read: it is a link whose target is gone or locked. The documents of a "
                "folder would count as deleted. Make the target readable, or remove the link."
            )
        if not self._matches.fullmatch(path):
            return None
        if kind is None:
            self.others += 1
            self.first_other = self.first_other or path
            return None
        named = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        # If they differ, no file has this name, so reading it makes a reject.
        self.misnamed += named != path
        return SourceFile(f"{self.base}/{named}", named, entry.size, entry.etag, kind)

    def report(self) -> None:
        if self.others:
            self.warn(
                "%s has %s files of other formats, which are skipped (first: %r); supported are %s.",
                *(self.base, f"{self.others:,}", self.first_other, self.formats.suffixes),
            )
        if self.dotted:
            self.warn(
                "%s has %s names with a part '.' or '..', which are skipped (first: %r).",
                *(self.base, f"{self.dotted:,}", self.first_dotted),
            )
        if self.repeated:
            self.warn(
                "%s has %s links in linked folders to what is listed elsewhere, which are not followed (first: %r).",
                *(self.base, f"{self.repeated:,}", self.first_repeated),
            )
        if self.misnamed:
            self.warn("%s has %s files whose names are not UTF-8; rename them.", self.base, self.misnamed)


def _expression(parts: list[str]) -> str:
    """The regular expression of a glob, for paths below its folder."""
    expression = ""
    for part in parts[:-1]:
        # Some stores have folders without a name.
        expression += "(?:[^/]*/)*" if part == "**" else f"{_part(part)}/"
    return expression + ("(?s:.+)" if parts[-1] == "**" else _part(parts[-1]))


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
