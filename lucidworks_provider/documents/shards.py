# SPDX-License-Identifier: Apache-2.0
"""
One corpus over many tasks: a listing for each, and one snapshot over what they made.

::

    listings/shard-007.jsonl     the files whose paths fall into shard 7
    shard-007/…                  a dataset of its own, written by one task
    snapshot.json                written last, by ``publish``: names the parts of all shards

Which shard a file falls into depends on its path and on the number of shards alone, so it is the same every night.
Another number of shards moves nearly all documents to other shards, where they are new and are submitted again.
"""

from __future__ import annotations

import io
import json
import logging
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

from lucidworks_provider.documents.dataset import (
    DATA,
    INDEX,
    JSON_LINES,
    SNAPSHOT,
    Snapshot,
    below,
    check_installed,
    json_lines_of,
    read_index,
    read_snapshot,
    under_way,
    write_snapshot,
)
from lucidworks_provider.documents.source import Format, SourceFile, list_source
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import check_folder, check_uri, discard, names_in, reading, writing

log = logging.getLogger(__name__)

# Each is an open file while the source is listed, and a task instance afterwards.
MOST_SHARDS = 500
_BUFFER = 1 << 20
# Digests of all ids go to so many files, each of which is sorted in memory: a few MB for ten million documents.
_SPLITS = 64
_SPLIT_BUFFER = 1 << 16
_NAMED = 3


def shard_of(path: str, shards: int) -> int:
    """The shard of a file, from 0, by its path below the source."""
    return int.from_bytes(_digest(path)) % shards


def write_listings(source: str, into: str, *, shards: int) -> list[str]:
    """
    List a source once, for tasks that work on parts of it.

    :param source: as of :func:`~lucidworks_provider.documents.source.list_source`.
    :param into: URI of a folder for the listings; those of an earlier run are replaced.
    :param shards: how many.
    :return: the URIs of the listings, for ``.expand(listing=…)``. One without a file is among them, since the
        documents that its shard had have vanished.
    :raises InputError: the source holds nothing that can be read.
    :raises StorageError: a folder cannot be read or written.
    """
    if isinstance(shards, bool) or not isinstance(shards, int) or not 1 <= shards <= MOST_SHARDS:
        raise InputError(f"shards is {shards!r}; give a number from 1 to {MOST_SHARDS}.")
    folder = check_folder(into, "into")
    uris = [f"{folder}/{shard_name(number)}.jsonl" for number in range(shards)]
    counts = [0] * shards
    with ExitStack() as stack:
        paths = [stack.enter_context(writing(uri)) for uri in uris]
        files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in paths]
        for file in list_source(source):
            number = shard_of(file.path, shards)
            files[number].write(json.dumps(asdict(file), ensure_ascii=False) + "\n")
            counts[number] += 1
    log.info(
        "%s: %s files, %s to %s in each of %s shards.", source, sum(counts), min(counts), max(counts), shards
    )
    return uris


def shard_name(number: int) -> str:
    """What a shard's listing and its folder are called."""
    return f"shard-{number:03}"


def read_listing(uri: str) -> Iterator[SourceFile]:
    """
    The files of a listing, as they are asked for.

    :raises InputError: there is no such file, or it is not what :func:`write_listings` writes.
    :raises StorageError: it cannot be read.
    """
    uri = check_uri(uri, "listing")
    try:
        with reading(uri) as raw, io.BufferedReader(raw, _BUFFER) as file:  # type: ignore[type-var]
            for number, line in enumerate(file, 1):
                try:
                    plain = json.loads(line)
                    yield SourceFile(**plain | {"format": Format(plain["format"])})
                except (ValueError, TypeError, KeyError):
                    raise InputError(
                        f"listing: line {number} of {uri} is not of a listing. Give one that write_listings made."
                    ) from None
    except StorageError as err:
        if isinstance(err.__cause__, FileNotFoundError):
            raise InputError(f"listing: there is no file {uri}.") from None
        raise


def publish(outputs: Iterable[str], output: str) -> dict[str, Any]:
    """
    Make one dataset of the shards' datasets, and remove the files that none of them needs any more.

    Readers of ``output`` see the last published state until this replaces its snapshot, whatever the shards' tasks
    do meanwhile, if those ran with ``keep_replaced=True``. In shards that are being written, or whose last run
    died, nothing is removed; the next call does that.

    :param outputs: URIs of the shards' outputs, all of them, which lie below ``output``.
    :param output: URI of the folder of the whole.
    :return: ``{"dataset", "snapshot", "documents", "chunks", "tokens", "rejected", "shards", "parts"}``.
    :raises InputError: the shards do not belong into one dataset: another configuration, a document twice, a shard
        without a snapshot. Or the ``documents`` extra is not installed.
    :raises StorageError: a place cannot be read or written.
    """
    check_installed()
    folder = check_folder(output, "output")
    shards = _shards(outputs, folder)
    parts = tuple(part.below(name) for name, shard in shards.items() for part in shard.parts)
    dimensions = {shard.dimension for shard in shards.values() if shard.parts}
    options = _one_configuration(shards, dimensions)
    _check_ours(folder)
    _check_distinct(folder, shards)
    now = datetime.now(UTC)
    whole = Snapshot(
        id=now.strftime("%Y%m%dT%H%M%S.%fZ"),
        created=now.isoformat(timespec="seconds"),
        options=options,
        dimension=max(dimensions, default=0),
        parts=parts,
        rejects=sum(shard.rejects for shard in shards.values()),
        manifest={"shards": {name: shard.id for name, shard in shards.items()}},
    )
    write_snapshot(folder, whole)
    for name, shard in shards.items():
        try:
            _tidy(below(folder, name), shard)
        except StorageError as err:
            # The snapshot stands, so this may not fail the task.
            log.warning("Files that nobody needs could not be removed; the next run will: %s", err)
    return {
        "dataset": folder,
        "snapshot": whole.id,
        "documents": whole.documents,
        "chunks": whole.chunks,
        "tokens": whole.tokens,
        "rejected": whole.rejects,
        "shards": len(shards),
        "parts": len(parts),
    }


def _shards(outputs: Iterable[str], folder: str) -> dict[str, Snapshot]:
    """The shards' snapshots by their names below the folder."""
    found: dict[str, Snapshot] = {}
    for uri in outputs:
        shard = check_folder(uri, "outputs")
        name = shard.removeprefix(f"{folder}/")
        if name == shard:
            raise InputError(f"outputs: {shard} does not lie below {folder}, so its snapshot cannot name it.")
        if name in found:
            raise InputError(f"outputs: {shard} is there twice.")
        snapshot = read_snapshot(shard)
        if snapshot is None:
            raise InputError(
                f"outputs: {shard} has no {SNAPSHOT}. Publish when the tasks of all shards have ended well; leave "
                "trigger_rule at all_success."
            )
        found[name] = snapshot
    if not found:
        raise InputError("outputs is empty; give the outputs of the shards.")
    return found


def _one_configuration(shards: Mapping[str, Snapshot], dimensions: set[int]) -> Mapping[str, Any]:
    first_name, first = next(iter(shards.items()))
    for name, shard in shards.items():
        if shard.options != first.options:
            names = sorted(
                key
                for key in {*shard.options, *first.options}
                if shard.options.get(key) != first.options.get(key)
            )
            raise InputError(
                f"{name} was made with another configuration than {first_name} ({', '.join(names)}). Run all shards "
                "with full_refresh=True after a change."
            )
    if len(dimensions) > 1:
        raise InputError(
            f"The shards have vectors of different lengths ({sorted(dimensions)}), though they were made with one "
            "configuration: the deployment changed. Run all shards with full_refresh=True."
        )
    return first.options


def _check_ours(folder: str) -> None:
    """A dataset that one task writes must not be replaced by one of shards."""
    there = read_snapshot(folder)
    if there is not None and any(part.data.startswith(f"{DATA}/") for part in there.parts):
        raise InputError(
            f"{folder} holds a dataset of its own, which is not made of shards. Publish into another folder, above "
            "the shards' outputs."
        )


def _check_distinct(folder: str, shards: Mapping[str, Snapshot]) -> None:
    """
    No document twice, in memory that does not grow with their number.

    :raises InputError: naming some that are.
    """
    with tempfile.TemporaryDirectory(prefix="lucidworks-") as temporary:
        suspects = _digests_twice(Path(temporary), _ids(folder, shards))
    if not suspects:
        return
    # Digests of 8 bytes: that two ids have one is possible.
    seen: dict[str, str] = {}
    twice: list[str] = []
    for name, document_id in _ids(folder, shards):
        if _digest(document_id) not in suspects:
            continue
        if document_id in seen:
            twice.append(f"{document_id!r} ({seen[document_id]}, {name})")
        seen[document_id] = name
    if twice:
        raise InputError(
            f"{len(twice):,}{' or more' if len(suspects) == _SPLITS else ''} documents are there twice: "
            f"{', '.join(twice[:_NAMED])}. Two files have records with one id, or the number of shards was changed "
            "without prune=True, so that shards still have documents that belong to others now."
        )


def _ids(folder: str, shards: Mapping[str, Snapshot]) -> Iterator[tuple[str, str]]:
    for name, shard in shards.items():
        for part in shard.parts:
            for batch in read_index(below(folder, name), part):
                for document_id in batch.column("document_id").to_pylist():
                    yield name, document_id


def _digests_twice(temporary: Path, ids: Iterable[tuple[str, str]]) -> set[bytes]:
    """Some digests that occur more than once, if any do."""
    buffers = [bytearray() for _ in range(_SPLITS)]

    def spill(number: int) -> None:
        with (temporary / str(number)).open("ab") as file:
            file.write(buffers[number])
        buffers[number].clear()

    for _, document_id in ids:
        digest = _digest(document_id)
        number = digest[0] % _SPLITS
        buffers[number] += digest
        if len(buffers[number]) >= _SPLIT_BUFFER:
            spill(number)
    twice: set[bytes] = set()
    for number in range(_SPLITS):
        spill(number)
        numbers = array("Q", (temporary / str(number)).read_bytes())
        ordered = sorted(numbers)
        for one, other in pairwise(ordered):
            if one == other:
                twice.add(array("Q", [one]).tobytes())
                if len(twice) == _SPLITS:
                    return twice
    return twice


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()


def _tidy(shard: str, published: Snapshot) -> None:
    """Remove what neither the shard's snapshot nor the published one names."""
    # In this order: a run that starts after the listing writes files that are not in it, and one that was under way
    # before has left its lease, or has put its parts into its snapshot.
    files = [f"{kind}/{name}" for kind in (DATA, INDEX, JSON_LINES) for name in names_in(below(shard, kind))]
    if under_way(shard):
        log.info("%s is being written, or its last run died: nothing is removed there.", shard)
        return
    current = read_snapshot(shard)
    named = {name for snapshot in (published, current) if snapshot is not None for name in _files(snapshot)}
    gone = [name for name in files if name not in named]
    if gone and discard(*(below(shard, name) for name in gone)):
        log.info("%s: %s files that no snapshot names were removed.", shard, len(gone))


def _files(snapshot: Snapshot) -> Sequence[str]:
    return [name for part in snapshot.parts for name in (part.data, part.index, json_lines_of(part.data))]
