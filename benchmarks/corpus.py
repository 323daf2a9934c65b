# SPDX-License-Identifier: Apache-2.0
"""
``LucidworksChunkCorpusOperator`` against the emulator in a process of its own, on one machine.

::

    python -m benchmarks.corpus throughput   # documents a second and CPU, beside the best loop with sessions
    python -m benchmarks.corpus memory       # resident memory for few and for many documents
    python -m benchmarks.corpus unchanged    # a run with nothing to do
    python -m benchmarks.corpus all [--short]

Each run of the operator is a process of its own, whose CPU and memory are its alone. It says what it used before the
operator ran (Airflow's SDK and the operator imported), and what it has used at its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from benchmarks.corpus_baseline import Measured, run_loop
from benchmarks.corpus_documents import write_documents
from benchmarks.harness import child, context, emulated, peak_memory, quiet, spread
from dev.demo import Emulator
from lucidworks_provider.documents.document import content_hash
from lucidworks_provider.documents.source import list_source

MEGABYTE = 2**20
JOB_SECONDS = 0.1
DOCUMENT_BYTES = 4096
# To reach: times the documents a second of the best loop, by number of documents.
RATIOS = {2_000: 1.2, 10_000: 1.4}
UNCHANGED_SECONDS = 15
# Of the loops that compete to be the best.
LOOP_THREADS = (32, 64, 128)


def run(source: Path, output: Path, **options: Any) -> dict[str, Any]:
    """Run the operator in a process of its own; what it returned and used."""
    arguments = {"source": str(source), "output_uri": str(output), **options}
    found: dict[str, Any] = child("corpus", "child", json.dumps(arguments))
    return found


def run_as_child(arguments: str) -> None:
    """In the child: one task instance's work."""
    quiet()
    from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

    options = {"chunker": "dynamic-sentence", "model_id": "gte-small", **json.loads(arguments)}
    operator = LucidworksChunkCorpusOperator(task_id="chunk", **options)
    opened = 0

    def count_opened(event: str, values: Sequence[object]) -> None:
        nonlocal opened
        opened += event == "open" and str(values[0]).startswith(f"{options['source']}/")

    sys.addaudithook(count_opened)
    process = psutil.Process()
    bare = process.memory_info().rss
    began, started, cpu = time.time(), time.perf_counter(), time.process_time()
    returned = operator.execute(context())
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(
        json.dumps(
            {
                "returned": returned,
                "began": began,
                "seconds": seconds,
                "cpu": cpu,
                "bare_mb": bare / MEGABYTE,
                "peak_mb": peak_memory() / MEGABYTE,
                "opened": opened,
            }
        )
    )


def service(module: str = "lucidworks_provider.emulator") -> AbstractContextManager[Emulator]:
    """The emulator, whose jobs take a moment."""
    return emulated(module, pending_polls=0, pending_seconds=JOB_SECONDS)


def emulator_cpu() -> float:
    """Seconds of CPU that this process's children have used so far."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def throughput(*, short: bool) -> bool:
    """
    Documents a second and CPU a document, beside the best loop with sessions: the two take turns.

    The service has computed each result before: else both would wait for the emulator, which needs more CPU for a
    document than they do.
    """
    sizes, rounds = ((1000,), 1) if short else (tuple(RATIOS), 3)
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    for documents in sizes:
        write_documents(folder / str(documents), documents, DOCUMENT_BYTES)
    good, lines = True, []
    with service("benchmarks.remembering_emulator") as emulator:

        def loop(documents: int, threads: int) -> Measured:
            return run_loop(emulator, folder / str(documents), documents, threads)

        for documents in sizes:
            loop(documents, LOOP_THREADS[0])
        threads = max(LOOP_THREADS, key=lambda number: loop(sizes[0], number).rate)
        for documents in sizes:
            ours, theirs, starts, ends, ratios = [], [], [], [], []
            for number in range(rounds):
                before = emulator_cpu()
                found = run(folder / str(documents), folder / f"out-{documents}-{number}")
                if found["returned"]["added"] != documents:
                    raise RuntimeError(f"documents are missing: {found}")
                used = (emulator_cpu() - before) / documents * 1000
                ours.append(
                    Measured(documents / found["seconds"], found["cpu"] / documents * 1000, used),
                )
                starts.append(first_submission(emulator, found["began"]) - found["began"])
                ends.append(found["began"] + found["seconds"] - last_response(emulator))
                theirs.append(loop(documents, threads))
                ratios.append(ours[-1].rate / theirs[-1].rate)
            for what, runs in (("operator", ours), (f"{threads} threads with a session each", theirs)):
                cells = (spread([getattr(run, name) for run in runs], 2) for name in Measured.__slots__)
                lines.append(f"| {what} | {documents:,} | {' | '.join(cells)} |")
            ratio, aim = statistics.median(ratios), RATIOS.get(documents, 0.0)
            good = good and ratio >= aim
            lines.append(
                f"| *operator by loop, in pairs* | {documents:,} | {spread(ratios, 2)} (goal {aim}) | | |"
            )
            lines.append(
                f"| *from the call to the first submission, s* | {documents:,} | {spread(starts, 2)} | | |"
            )
            lines.append(
                f"| *from the last response to the end, s* | {documents:,} | {spread(ends, 2)} | | |"
            )
    print(
        "| what | documents | documents a second | client CPU a document, ms | emulator CPU a document, ms |"
    )
    print("| --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    return good


def first_submission(emulator: Emulator, since: float) -> float:
    """When the first POST of a document began after a moment, seconds since the epoch."""
    calls = emulator.get("log")
    return float(
        min(call["time"] for call in calls if call["endpoint"] == "submit" and call["time"] >= since)
    )


def last_response(emulator: Emulator) -> float:
    """When the last call of all had its response."""
    call = emulator.get("log")[-1]
    return float(call["time"] + call["seconds"])


def requested(emulator: Emulator) -> int:
    """Requests of all kinds that the emulator has seen."""
    return sum(emulator.get("stats")["calls"].values())


def memory(*, short: bool) -> bool:
    """Resident memory for few and for many documents."""
    good = True
    print("| documents | bare, MB | peak, MB | over it, MB |\n| --- | --- | --- | --- |")
    with service():
        for documents in (1000, 10_000) if short else (1000, 10_000, 100_000):
            folder = Path(tempfile.mkdtemp(prefix="corpus-"))
            write_documents(folder / "source", documents, DOCUMENT_BYTES)
            found = run(folder / "source", folder / "out")
            over = found["peak_mb"] - found["bare_mb"]
            good = good and over <= 250
            print(f"| {documents:,} | {found['bare_mb']:.0f} | {found['peak_mb']:.0f} | {over:.0f} |")
    return good


def unchanged(*, short: bool) -> bool:
    """
    A run with nothing changed.

    The tables are written without the service, as a first run would have left them: a chunk for each document.
    """
    documents = 2000 if short else 100_000
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    source, output = folder / "source", folder / "out"
    write_documents(source, documents, 200)
    # In another process, as what it needs is no part of what is measured.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(write_tables, source, output).result()
    with service() as emulator:
        runs = [run(source, output) for _ in range(3)]
        sent = requested(emulator)
    seconds, cpu = ([found[name] for found in runs] for name in ("seconds", "cpu"))
    over = max(found["peak_mb"] - found["bare_mb"] for found in runs)
    opened = max(found["opened"] for found in runs)
    print(
        f"{documents:,} documents, nothing changed: {spread(seconds, 2)} s, {spread(cpu, 2)} s of CPU, "
        f"{over:.0f} MB over the bare process, {sent} requests, {opened} files of the source opened "
        f"(goal {UNCHANGED_SECONDS} s, 0, 0)"
    )
    skipped = all(found["returned"]["skipped"] == documents for found in runs)
    return bool(statistics.median(seconds) <= UNCHANGED_SECONDS and sent == opened == 0 and skipped)


def write_tables(source: Path, output: Path) -> None:
    """The tables of all documents of the source; in a process of its own."""
    from benchmarks import catalogue

    files = {file.path: file for file in list_source(str(source))}
    parts, rows = catalogue.write_parts(output, list(files), 1, each=1)
    rows = [
        row._replace(
            hash=content_hash((source / row.id).read_text()),
            size=files[row.id].size,
            etag=files[row.id].etag,
        )
        for row in rows
    ]
    catalogue.commit(output, 1, parts, rows, ())


PARTS = {"throughput": throughput, "memory": memory, "unchanged": unchanged}


def main() -> int:
    """Run what was asked for; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "all", "child"])
    parser.add_argument("arguments", nargs="?", default="{}")
    parser.add_argument("--short", action="store_true")
    given = parser.parse_args()
    if given.part == "child":
        run_as_child(given.arguments)
        return 0
    good = True
    for name, part in PARTS.items():
        if given.part in {name, "all"}:
            print(f"\n## {name}\n")
            good = part(short=given.short) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
