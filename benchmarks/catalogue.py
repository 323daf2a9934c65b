# SPDX-License-Identifier: Apache-2.0
"""
The commit of a run over a large catalogue, and reads of its changes; without the service.

::

    python -m benchmarks.catalogue            # 500,000 and 1,000,000 chunks of 384 float32
    python -m benchmarks.catalogue --short    # 50,000
    python -m benchmarks.catalogue --changes  # reads of 100,000 and 1,000,000 documents, a chunk each

A catalogue of documents with five chunks each is written. In a second run, 1 % of the documents changed, 1 % are new,
and 0.5 % are removed. Only its commit is measured, in a separate process; the new chunks are already written.

``--changes`` measures :func:`~lucidworks_provider.corpus.changes` of a whole catalogue in a separate process, with
vectors of 8 float32.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.harness import Goal, child, command_line, print_heads, print_row, report, usage
from lucidworks_provider.corpus.dataset import CHUNKS, changes, new_name, open_dataset
from lucidworks_provider.corpus.lease import Holder, Lease
from lucidworks_provider.corpus.parts import GROUP_ROWS, PART_ROWS, ParquetFile, Part
from lucidworks_provider.corpus.publish import TableSettings, maintain, publish
from lucidworks_provider.corpus.run_database import SAME, TODO, Row, RunDatabase
from lucidworks_provider.corpus.tables import CatalogueOptions, load_documents, read_tables, reconcile
from lucidworks_provider.jobs.columns import stored_chunk_schema

OPTIONS = CatalogueOptions("dynamic-sentence", "gte-small")
DIMENSION, EACH = 384, 5
RETENTION = 7 * 86_400.0


def write_parts(
    output: Path, ids: list[str], version: int, each: int = EACH, dimension: int = DIMENSION
) -> tuple[list[Part], list[Row]]:
    """Write files of random vectors, as a run does before its commit; ``each`` chunks for each document."""
    schema = stored_chunk_schema(OPTIONS, dimension)
    rng = random.Random(version)
    parts: list[Part] = []
    rows: list[Row] = []
    for start in range(0, len(ids), PART_ROWS // each):
        within = ids[start : start + PART_ROWS // each]
        path = f"{new_name()}.parquet"
        file = ParquetFile(f"{output}/{CHUNKS}/{path}")
        group = GROUP_ROWS // each
        for first in range(0, len(within), group):
            file.write(
                _batch(within[first : first + group], version, rng, schema, each=each, dimension=dimension)
            )
        rows += [
            Row(one, f"{version:064}", 3000, f"v{version}", one, each, path, n * each, 100)
            for n, one in enumerate(within)
        ]
        count = len(within) * each
        parts.append(Part(path, "", count, 100 * len(within), file.close(), dimension))
    return parts, rows


def _batch(
    ids: list[str], version: int, rng: random.Random, schema: pa.Schema, *, each: int, dimension: int
) -> pa.RecordBatch:
    count = len(ids) * each
    # Random mantissas and exponents around 1, which no compression makes much smaller.
    words = memoryview(rng.randbytes(4 * count * dimension)).cast("I")
    mantissas = pc.bit_wise_and(pa.array(words, pa.uint32()), pa.scalar(0x807FFFFF, pa.uint32()))
    bits = pc.bit_wise_or(mantissas, pa.scalar(0x3F000000, pa.uint32()))
    vectors = pa.ListArray.from_arrays(
        pa.array(range(0, (count + 1) * dimension, dimension), pa.int32()),
        pa.Array.from_buffers(pa.float32(), count * dimension, bits.buffers()),
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
    dimension: int = DIMENSION,
) -> tuple[float, float]:
    """The commit of a run; seconds to read the table of documents, and to commit."""
    lease = Lease(str(output))
    holder = Holder.here(dag_id="d", run_id=str(number), task_id="t", map_index=-1, try_number=1)
    lease.acquire(holder, wait_seconds=0)
    began = time.perf_counter()
    with RunDatabase() as db:
        tables = read_tables(str(output))
        load_documents(db, tables.documents)
        reconcile(db, tables, "resend")
        load = time.perf_counter() - began
        db.add_new(rows)
        db.many("INSERT INTO source VALUES (?, ?)", ((row.id, TODO) for row in rows))
        db.many("INSERT INTO source VALUES (?, ?)", ((one, SAME) for one in same))
        began = time.perf_counter()
        publish(
            str(output),
            db,
            tables,
            parts,
            replace(TableSettings(OPTIONS, dimension), prune=True),
            lease=lease,
            task={"instance": [number]},
            journal="",
            last=None,
            returned=lambda _: {},
            report=lambda _: None,
        )
        committed = time.perf_counter() - began
    maintain(str(output), RETENTION, tables)
    lease.release()
    return load, committed


def second_run(folder: str, documents: int) -> dict[str, float]:
    """Commit a run over a changed catalogue, in its own process."""
    output, names = Path(folder), [f"{n:08}.txt" for n in range(documents)]
    rng, share = random.Random(7), documents // 100
    changed, removed = set(rng.sample(names, share)), set(rng.sample(names, share // 2))
    ids = [*sorted(changed - removed), *(f"new-{n:08}.txt" for n in range(share))]
    # In another process, because the memory of this one is measured.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        parts, rows = pool.submit(write_parts, output, ids, 2).result()
    size = _size(output)
    with usage() as used:
        load, committed = commit(output, 2, parts, rows, (n for n in names if n not in changed | removed))
    new = sum(part.bytes for part in parts)
    written = _size(output) - size + new
    return {"load": load, "commit": committed, "peak": used["peak"], "new": new, "written": written}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def commits(sizes: Iterable[int]) -> int:
    """Measure commits; the exit code."""
    print_heads("chunks", "MB", "commit, s", "MB written", "of it new chunks", "peak, MB more", "load, s")
    results: list[dict[str, float]] = []
    for chunks in sizes:
        with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
            documents = chunks // EACH
            commit(
                Path(folder), 1, *write_parts(Path(folder), [f"{n:08}.txt" for n in range(documents)], 1), ()
            )
            one = child(second_run, folder, documents)
            size = _size(Path(folder)) / 1e6
        results.append(one)
        print_row(
            *(f"{chunks:,}", f"{size:,.0f}", f"{one['commit']:.2f}", f"{one['written'] / 1e6:.1f}"),
            *(f"{one['new'] / 1e6:.1f}", f"{one['peak'] / 2**20:.0f}", f"{one['load']:.2f}"),
        )
    first, last = results[0], results[-1]
    return report(
        [
            Goal("commit, s", first["commit"], 1.5),
            Goal("MB written", first["written"] / 1e6, 30),
            Goal("peak, MB more", first["peak"] / 2**20, 150),
            Goal("largest : smallest, s", last["commit"] / first["commit"], 1.5),
        ]
    )


def read_changes(folder: str) -> dict[str, float]:
    """Read all changes, in a separate process."""
    open_dataset(folder)
    with usage() as used:
        documents = sum(batch.num_rows for batch in changes(folder, None))
    return {"documents": documents, **used}


def reads() -> int:
    """Measure reads of changes; the exit code."""
    print_heads("documents", "CPU, s", "peak, MB more")
    peaks = []
    for documents in (100_000, 1_000_000):
        with tempfile.TemporaryDirectory(prefix="catalogue-") as folder:
            names = [f"{n:08}.txt" for n in range(documents)]
            commit(Path(folder), 1, *write_parts(Path(folder), names, 1, 1, 8), (), dimension=8)
            read = child(read_changes, folder)
        if read["documents"] != documents:
            raise RuntimeError(f"{read['documents']} documents of {documents} were read")
        peaks.append(read["peak"] / 2**20)
        print_row(f"{documents:,}", f"{read['cpu']:.1f}", f"{peaks[-1]:.0f}")
    return report([Goal("peak, MB more", max(peaks), 100)])


def main() -> int:
    """Print a table; 1 if a goal is missed."""
    options = command_line(__doc__, short=False, changes=False)
    if options.changes:
        return reads()
    return commits((50_000,) if options.short else (500_000, 1_000_000))


if __name__ == "__main__":
    sys.exit(main())
