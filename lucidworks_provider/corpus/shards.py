# SPDX-License-Identifier: Apache-2.0
"""
Shards of a corpus, one for each mapped task: listings of its files.

::

    LISTINGS/shard-007-of-050.jsonl     the files whose paths fall into shard 7
    OUTPUT/shards/007-of-050/           lease, journal, records and result of its task
    OUTPUT/chunks/, OUTPUT/documents/   files of all shards; one commit makes all of them visible

The shard of a file depends only on its path and on the number of shards. The tables are independent of shards, so a
change of their number sends nothing again.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from hashlib import blake2b
from typing import Any

from lucidworks_provider.documents.source import Format, SourceFile, list_source
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import check_folder, check_uri, reading, writing

log = logging.getLogger(__name__)

# Each shard is an open file during the listing, and a task instance.
MOST_SHARDS = 500
_BUFFER = 1 << 20


@dataclass(frozen=True, slots=True)
class Shard:
    """
    A part of a corpus.

    :param number: from 0.
    :param of: how many there are.
    """

    number: int
    of: int

    @property
    def name(self) -> str:
        """Part of the names of its files and folders."""
        return f"{self.number:03}-of-{self.of:03}"

    def has(self, path: str) -> bool:
        """Whether it has a file, by the path below the source."""
        return shard_of(path, self.of) == self.number


def shard_of(path: str, shards: int) -> int:
    """The number of a file's shard, by the path below the source."""
    return int.from_bytes(blake2b(path.encode(), digest_size=8).digest()) % shards


def write_listings(source: str, into: str, *, shards: int) -> list[str]:
    """
    List a source once, and write a listing for each shard.

    :param source: as of :func:`~lucidworks_provider.documents.source.list_source`.
    :param into: URI of a folder for the listings; those of an earlier run are replaced.
    :param shards: how many.
    :return: the URIs of the listings, for ``.expand(listing=…)``. Empty ones are included, as their shards may have
        had documents before.
    :raises InputError: the source has no file that can be read.
    :raises StorageError: a folder cannot be read or written.
    """
    if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise InputError(f"shards is {shards!r}; give a number from 1 to {MOST_SHARDS}.")
    folder = check_folder(into, "into")
    all_shards = [Shard(number, shards) for number in range(shards)]
    uris = [f"{folder}/shard-{shard.name}.jsonl" for shard in all_shards]
    counts = [0] * shards
    with ExitStack() as stack:
        paths = [stack.enter_context(writing(uri)) for uri in uris]
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for shard, listing in zip(all_shards, files, strict=True):
            listing.write(json.dumps(asdict(shard)) + "\n")
        for file in list_source(source):
            number = shard_of(file.path, shards)
            files[number].write(json.dumps(asdict(file), ensure_ascii=False) + "\n")
            counts[number] += 1
    log.info(
        "%s: %s files, %s to %s in each of %s shards.", source, sum(counts), min(counts), max(counts), shards
    )
    return uris


def read_shard(uri: str) -> Shard:
    """
    Read the shard of a listing.

    :raises InputError: there is no such file, or it is not a listing.
    :raises StorageError: the storage cannot be read.
    """
    for plain in _lines(uri):
        try:
            return Shard(int(plain["number"]), int(plain["of"]))
        except (TypeError, KeyError, ValueError):
            break
    raise InputError(f"listing: {uri} is no listing. Give one that write_listings made.")


def read_listing(uri: str) -> Iterator[SourceFile]:
    """
    Iterate over the files of a listing.

    :raises InputError: as :func:`read_shard`.
    :raises StorageError: the storage cannot be read.
    """
    lines = _lines(uri)
    next(lines, None)
    for number, plain in enumerate(lines, 2):
        try:
            yield SourceFile(**plain | {"format": Format(plain["format"])})
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"listing: line {number} of {uri} is not of a listing. Give one that write_listings made."
            ) from None


def _lines(uri: str) -> Iterator[dict[str, Any]]:
    uri = check_uri(uri, "listing")
    try:
        with reading(uri) as raw, io.BufferedReader(raw, _BUFFER) as file:  # type: ignore[type-var]
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError:
                    raise InputError(
                        f"listing: line {number} of {uri} is not of a listing. Give one that write_listings made."
                    ) from None
    except StorageError as err:
        if isinstance(err.__cause__, FileNotFoundError):
            raise InputError(f"listing: there is no file {uri}.") from None
        raise
