# SPDX-License-Identifier: Apache-2.0
"""
What a night costs a large catalogue: the commit alone, without the service.

::

    python -m benchmarks.catalogue            # 500,000 and 1,000,000 chunks of 384 float32
    python -m benchmarks.catalogue --short    # 50,000
    python -m benchmarks.catalogue --changes  # reads of 100,000 and 1,000,000 documents, a chunk each

A catalogue of documents with five chunks each is written with the writers of a run. Then a process of its own makes
the night: 1 % of the documents changed, 1 % new, 0.5 % removed. Its files of new chunks are there before the clock
starts, as a run has written them by then; what is measured is what :mod:`lucidworks_provider.corpus.publish` does.

``--changes`` reads all documents of a catalogue with :func:`~lucidworks_provider.corpus.changes` in a process of
its own, with vectors of 8 float32: seconds of CPU, and the peak of its memory above that before the read.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import child, forget_peak, peak_memory
from lucidworks_provider.corpus.dataset import CHUNKS, changes, new_name, open_dataset
from lucidworks_provider.corpus.lease import Holder, Lease
from lucidworks_provider.corpus.parts import GROUP_ROWS, PART_ROWS, ParquetFile, Part
from lucidworks_provider.corpus.publish import TableSettings, maintain, publish
from lucidworks_provider.corpus.run_database import SAME, TODO, Row, RunDatabase
from lucidworks_provider.corpus.tables import CatalogueOptions, load_documents, read_tables, reconcile
from lucidworks_provider.jobs.columns import stored_chunk_schema

OPTIONS = CatalogueOptions("dynamic-sentence", "gte-small")
DIMENSION, EACH = 384, 5
SETTINGS = TableSettings(OPTIONS, DIMENSION)
RETENTION = 7 * 86_400.0
# To reach: seconds, megabytes written, megabytes of memory above the start.
SECONDS, WRITTEN, PEAK = 1.5, 30, 150
# Of a read of all changes.
READ_PEAK = 100


def write_parts(
    output: Path, ids: list[str], version: int, *, each: int = EACH, dimension: int = DIMENSION
) -> tuple[list[Part], list[Row]]:
    """Files of random vectors, as a run leaves them before its commit."""
    schema = stored_chunk_schema(OPTIONS, dimension)
    draw = random.Random(version)
    parts: list[Part] = []
    rows: list[Row] = []
    for start in range(0, len(ids), PART_ROWS // each):
        some = ids[start : start + PART_ROWS // each]
        path = f"{new_name()}.parquet"
        file = ParquetFile(f"{output}/{CHUNKS}/{path}")
        at_once = GROUP_ROWS // each
        for first in range(0, len(some), at_once):
            file.write(
                _batch(some[first : first + at_once], version, draw, schema, each=each, dimension=dimension)
            )
        rows += [
            Row(one, f"{version:064}", 3000, f"v{version}", one, each, path, n * each, 100)
            for n, one in enumerate(some)
        ]
        count = len(some) * each
        parts.append(Part(path, "", len(some), count, 100 * len(some), file.close(), dimension))
    return parts, rows


def _batch(
    ids: list[str], version: int, draw: random.Random, schema: pa.Schema, *, each: int, dimension: int
) -> pa.RecordBatch:
    count = len(ids) * each
    # Mantissas at random, exponents around 1: numbers that no compression makes much smaller.
    words = memoryview(draw.randbytes(4 * count * dimension)).cast("I")
    bits = pa.array(words, pa.uint32())
    bits = pc.bit_wise_or(
        pc.bit_wise_and(bits, pa.scalar(0x807FFFFF, pa.uint32())), pa.scalar(0x3F000000, pa.uint32())
    )
    floats = pa.Array.from_buffers(pa.float32(), count * dimension, bits.buffers())
    vectors = pa.ListArray.from_arrays(
        pa.array(range(0, (count + 1) * dimension, dimension), pa.int32()),
        floats,
        type=schema.field("vector").type,
    )
    text = "A sentence of a document that says what it says. " * 2
    columns: list[Any] = [
        pa.array([one for one in ids for _ in range(each)]),
        pa.array(list(range(each)) * len(ids), pa.int32()),
        pa.array([f"{text}{n}" for n in range(count)]),
        pa.array(list(range(0, each * 100, 100)) * len(ids), pa.int64()),
        pa.array(list(range(100, each * 100 + 100, 100)) * len(ids), pa.int64()),
        vectors,
        pa.array([20] * count, pa.int32()),
        pa.array([f"{version:064}"] * count),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def commit(
    output: Path,
    number: int,
    parts: list[Part],
    rows: list[Row],
    same: Iterable[str],
    *,
    settings: TableSettings = SETTINGS,
) -> dict[str, float]:
    """One run's end."""
    lease = Lease(str(output))
    lease.acquire(
        Holder.here(dag_id="d", run_id=str(number), task_id="t", map_index=-1, try_number=1), wait_seconds=0
    )
    began = time.perf_counter()
    times: dict[str, float] = {}
    with RunDatabase() as db:
        tables = read_tables(str(output))
        load_documents(db, tables.documents)
        reconcile(db, tables, "resend")
        times["load"] = time.perf_counter() - began
        db.add_new(rows)
        db.many("INSERT INTO source VALUES (?, ?)", ((row.id, TODO) for row in rows))
        db.many("INSERT INTO source VALUES (?, ?)", ((one, SAME) for one in same))
        began = time.perf_counter()
        publish(
            str(output),
            db,
            tables,
            parts,
            replace(settings, prune=True),
            lease=lease,
            task={"instance": [number]},
            journal="",
            last=None,
            returned=lambda _: {},
            report=lambda _: None,
        )
        times["commit"] = time.perf_counter() - began
    began = time.perf_counter()
    maintain(str(output), RETENTION, tables)
    times["maintain"] = time.perf_counter() - began
    lease.release()
    return times


def night(output: Path, documents: int) -> dict[str, float]:
    """In a process of its own."""
    names = [f"{n:08}.txt" for n in range(documents)]
    draw = random.Random(7)
    share = documents // 100
    changed, gone = set(draw.sample(names, share)), set(draw.sample(names, share // 2))
    new = [f"new-{n:08}.txt" for n in range(share)]
    wanted = [*sorted(changed - gone), *new]
    # In another process, as the peak of this one is measured.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        parts, rows = pool.submit(write_parts, output, wanted, 2).result()
    forget_peak()
    before, size = peak_memory(), _size(output)
    same = (name for name in names if name not in changed and name not in gone)
    times = commit(output, 2, parts, rows, same)
    own = sum(part.bytes for part in parts)
    more = (peak_memory() - before) / 2**20
    return times | {"peak": more, "written": (_size(output) - size + own) / 1e6, "own": own / 1e6}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure(chunks: int) -> dict[str, float]:
    """A catalogue, and its night."""
    documents = chunks // EACH
    with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
        output = Path(folder)
        names = [f"{n:08}.txt" for n in range(documents)]
        began = time.perf_counter()
        parts, rows = write_parts(output, names, 1)
        wrote = time.perf_counter() - began
        first = commit(output, 1, parts, rows, ())
        del parts, rows, names
        found: dict[str, float] = child("catalogue", "--night", folder, "--documents", str(documents))
        return found | {
            "size": _size(output) / 1e6,
            "first": first["commit"],
            "rows_a_second": chunks / (wrote + first["commit"]),
        }


def measure_changes(documents: int) -> dict[str, float]:
    """A read of all documents of a catalogue, by :func:`read_changes` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
        names = [f"{n:08}.txt" for n in range(documents)]
        parts, rows = write_parts(Path(folder), names, 1, each=1, dimension=8)
        commit(Path(folder), 1, parts, rows, (), settings=TableSettings(OPTIONS, 8))
        found: dict[str, float] = child("catalogue", "--read", folder)
        if found["documents"] != documents:
            raise RuntimeError(f"{found['documents']} documents of {documents} were read")
        return found


def read_changes(output: Path) -> dict[str, float]:
    """In a process of its own."""
    open_dataset(str(output))
    forget_peak()
    before, began = peak_memory(), time.process_time()
    count = sum(batch.num_rows for batch in changes(str(output), None))
    return {
        "documents": count,
        "seconds": time.process_time() - began,
        "peak": (peak_memory() - before) / 2**20,
    }


def _table(found: Iterator[tuple[int, dict[str, float]]]) -> Iterator[str]:
    yield "| chunks | MB | the night's commit | MB written | of it new chunks | peak, MB more | load | maintain |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for chunks, one in found:
        yield (
            f"| {chunks:,} | {one['size']:,.0f} | {one['commit']:.2f} s | {one['written']:.1f} | {one['own']:.1f} "
            f"| {one['peak']:.0f} | {one['load']:.2f} s | {one['maintain']:.2f} s |"
        )


def main() -> int:
    """Print a table; the exit code says whether the figures are reached."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--changes", action="store_true")
    parser.add_argument("--night", type=Path)
    parser.add_argument("--read", type=Path)
    parser.add_argument("--documents", type=int)
    given = parser.parse_args()
    if given.night:
        print(json.dumps(night(given.night, given.documents)))
        return 0
    if given.read:
        print(json.dumps(read_changes(given.read)))
        return 0
    if given.changes:
        print("| documents | seconds of CPU | peak, MB more |\n| --- | --- | --- |")
        peaks = []
        for documents in (100_000, 1_000_000):
            read = measure_changes(documents)
            peaks.append(read["peak"])
            print(f"| {documents:,} | {read['seconds']:.1f} | {read['peak']:.0f} |")
        print(f"\nTo reach: {READ_PEAK} MB more.")
        return 0 if max(peaks) <= READ_PEAK else 1
    sizes = (50_000,) if given.short else (500_000, 1_000_000)
    found = [(chunks, measure(chunks)) for chunks in sizes]
    for line in _table(iter(found)):
        print(line)
    worst = found[0][1]
    good = worst["commit"] <= SECONDS and worst["written"] <= WRITTEN and worst["peak"] <= PEAK
    print(f"\nTo reach: {SECONDS} s, {WRITTEN} MB, {PEAK} MB more.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
