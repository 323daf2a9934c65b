# SPDX-License-Identifier: Apache-2.0
"""Holds what a run has written against what it was given, and against what the emulator handed out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpus_judge import LATE, ON_THE_WAY, Catalogue
from lucidworks_provider.corpus.journal import GROUP_SECONDS

SUBMISSIONS = {"submit", "submit-prediction"}
POLLS = {"poll", "poll-prediction"}
# The emulator does as it was asked, and its answer is lost or cannot be read.
LOSING = {"disconnect-after", "cut-json", "slow"}


@dataclass(frozen=True, slots=True)
class Work:
    """
    What one run is given.

    :param documents: for the task ``chunk``, by id.
    :param inputs: for the task ``predict``.
    """

    folder: Path
    catalogue: Catalogue
    documents: Mapping[str, str]
    inputs: Sequence[str]

    @property
    def conf(self) -> dict[str, Any]:
        """For the DAG's run."""
        return {
            "source": str(self.catalogue.folder),
            "corpus": str(self.folder / "corpus"),
            "documents": [{"id": key, "text": text} for key, text in self.documents.items()],
            "chunks": str(self.folder / "chunks.parquet"),
            "inputs": list(self.inputs),
            "predictions": str(self.folder / "predictions.jsonl"),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    :param wrong: what is lost, doubled or not itself, in words; empty when all is well.
    :param twice: jobs beyond those that the work needs.
    :param allowed: what the design allows: a submission for each answer that was lost, for each request that was
        in flight at a kill, and for each answer that the journal of the corpus had not written by then.
    """

    wrong: Sequence[str]
    twice: int
    allowed: int


def judge(work: Work, log: Sequence[Mapping[str, Any]], kills: Sequence[float], batch: int) -> Verdict:
    """
    Look at everything that the run has written.

    :param log: of the emulator, of this run.
    :param kills: seconds since the epoch.
    :param batch: inputs of a job.
    """
    made = [line for line in log if line["endpoint"] in SUBMISSIONS and line["job_id"]]
    needed = len(work.catalogue.texts) + len(work.documents) + -(-len(work.inputs) // batch)
    # An ERROR is an answer: a retry submits that text again, as it should.
    failed = {line["job_id"] for line in log if line["endpoint"] in POLLS and line["job_status"] == "ERROR"}
    lost = sum(line["fault"] in LOSING for line in made)
    lost += sum(
        line["fault"] in LOSING and line["job_status"] == "READY" for line in log if line["endpoint"] in POLLS
    )
    stake = sum(_at_stake(log, kill) for kill in kills)
    return Verdict(
        [*_corpus(work), *_chunks(work), *_predictions(work)],
        len(made) - needed,
        lost + len(failed) + stake,
    )


def _at_stake(log: Sequence[Mapping[str, Any]], kill: float) -> int:
    """Requests that may have died with their process, and answers that only its memory had."""
    # A poll that found its job unfinished took nothing with it.
    calls = [
        line
        for line in log
        if line["endpoint"] in SUBMISSIONS or (line["endpoint"] in POLLS and line["job_status"] == "READY")
    ]
    ends = [(line["time"], line["time"] + line["seconds"]) for line in calls]
    return sum(end >= kill - GROUP_SECONDS - ON_THE_WAY and begin < kill + LATE for begin, end in ends)


def _corpus(work: Work) -> list[str]:
    from lucidworks_provider.documents.dataset import open_dataset, read_snapshot

    output = str(work.folder / "corpus")
    if read_snapshot(output) is None:
        return ["corpus: no snapshot"]
    columns = ["document_id", "chunk_index", "text", "start", "end", "content_hash"]
    rows = open_dataset(output).to_table(columns=columns).to_pylist()
    return _compare("corpus", rows, work.catalogue.texts)


def _chunks(work: Work) -> list[str]:
    import pyarrow.parquet as pq

    file = work.folder / "chunks.parquet"
    if not file.exists():
        return ["chunk: no file"]
    left = [path.name for path in work.folder.glob("_chunks.parquet.*/*") if path.name != "record.json"]
    return _compare("chunk", pq.read_table(file).to_pylist(), work.documents) + [
        f"chunk: {name} was left" for name in left
    ]


def _compare(task: str, rows: Sequence[Mapping[str, Any]], texts: Mapping[str, str]) -> list[str]:
    """Every document once, from its begin to its end, and nothing else."""
    by_document: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_document.setdefault(row["document_id"], []).append(row)
    wrong = [f"{task}: {key}: never asked for" for key in by_document.keys() - texts.keys()]
    for key, text in texts.items():
        chunks = sorted(by_document.get(key, []), key=lambda row: row["chunk_index"])
        if not chunks:
            wrong.append(f"{task}: {key}: missing")
        elif [row["chunk_index"] for row in chunks] != list(range(len(chunks))):
            wrong.append(f"{task}: {key}: chunks {[row['chunk_index'] for row in chunks]}")
        elif any(text[row["start"] : row["end"]] != row["text"] for row in chunks):
            wrong.append(f"{task}: {key}: a chunk of another text")
        elif chunks[-1]["end"] < len(text.rstrip()):
            wrong.append(f"{task}: {key}: its end is missing")
    return wrong


def _predictions(work: Work) -> list[str]:
    file = work.folder / "predictions.jsonl"
    if not file.exists():
        return ["predict: no file"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    seen = Counter(row["index"] for row in rows)
    wrong = [f"predict: {index}: {seen[index]} rows" for index in range(len(work.inputs)) if seen[index] != 1]
    wrong += [f"predict: {index}: never asked for" for index in seen if index >= len(work.inputs)]
    # The emulator's summary is made of its input's words, and each input has one that is its own.
    for row in rows:
        own = work.inputs[row["index"]].split()[0]
        if own not in json.dumps(row):
            wrong.append(f"predict: {row['index']}: the answer to another input")
    return wrong
