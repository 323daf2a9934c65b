# SPDX-License-Identifier: Apache-2.0
"""Compares the output of a run with its input, and with the emulator's log."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucidworks_provider.corpus.journal import GROUP_SECONDS
from tests.system.corpus.judge import LATE, ON_THE_WAY, Catalogue

SUBMISSIONS = {"submit", "submit-prediction"}
POLLS = {"poll", "poll-prediction"}
# The loaded emulator begins a request so late after it was sent.
UNDER_WAY = 0.5
# The emulator does as it was asked, and its answer is lost or cannot be read.
LOSING = {"disconnect-after", "cut-json", "slow", "drip", "endless", "reset"}


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


@dataclass
class Toll:
    """
    What a fault may cost besides the answers that the emulator itself has lost.

    :param kills: seconds since the epoch.
    :param spans: from when to when nothing could be written.
    :param cut: requests without an answer on connections that were reset.
    """

    kills: list[float] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    :param wrong: what is lost, doubled or not itself, in words; empty when all is well.
    :param twice: jobs beyond those that the work needs.
    :param allowed: what the design allows: a submission for each answer that was lost, for each request that was
        in flight at a kill, for each answer that the journal of the corpus had not written by then, and for each
        answer that came when nothing could be written.
    """

    wrong: Sequence[str]
    twice: int
    allowed: int


def judge(work: Work, log: Sequence[Mapping[str, Any]], toll: Toll, batch: int) -> Verdict:
    """
    Check everything that the run has written.

    :param log: of the emulator, of this run.
    :param batch: inputs of a job.
    """
    made = [line for line in log if line["endpoint"] in SUBMISSIONS and line["job_id"]]
    needed = len(work.catalogue.texts) + len(work.documents) + -(-len(work.inputs) // batch)
    # An ERROR is an answer: a retry submits that text again, as it should.
    failed = {line["job_id"] for line in log if line["endpoint"] in POLLS and line["job_status"] == "ERROR"}
    lost = sum(line["fault"] in LOSING for line in _giving(log))
    return Verdict(
        [*_corpus(work), *_chunks(work), *_predictions(work)],
        len(made) - needed,
        lost + len(failed) + toll.cut + _at_stake(log, toll),
    )


def _giving(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Calls whose answer is the only one of its kind. A poll that found its job unfinished took nothing with it."""
    return [
        line
        for line in log
        if (line["endpoint"] in SUBMISSIONS and line["job_id"])
        or (line["endpoint"] in POLLS and line["job_status"] == "READY")
    ]


def _at_stake(log: Sequence[Mapping[str, Any]], toll: Toll) -> int:
    """Requests that may have died with their process, and answers that only its memory had; each once."""
    spans = [(kill, kill) for kill in toll.kills] + toll.spans
    ends = [(line["time"], line["time"] + line["seconds"]) for line in _giving(log)]
    return sum(
        any(end >= since - GROUP_SECONDS - ON_THE_WAY and begin < until + LATE for since, until in spans)
        for begin, end in ends
    )


@dataclass(frozen=True, slots=True)
class Storm:
    """
    Requests while the service had asked to wait.

    :param windows: times that it asked, not counting those in between.
    :param on_the_way: requests that were begun within half a second: sent before the refusal could be read.
    :param later: requests after that.
    :param most: of these in one wait.
    :param endpoints: of these, with the time since the refusal.
    """

    windows: int
    on_the_way: int
    later: int
    most: int
    endpoints: str = ""


def storm(log: Sequence[Mapping[str, Any]], seconds: float) -> Storm:
    """
    Count what was begun within ``Retry-After`` of a 429.

    :param seconds: of the ``Retry-After``.
    """
    # The identity server is another application; "unknown" is the HEAD that reads its clock.
    calls = [line for line in log if line["endpoint"] not in {"token", "unknown"}]
    refusals = sorted(line["time"] + line["seconds"] for line in calls if line["status"] == 429)
    begins = sorted(line["time"] for line in calls)
    later: list[int] = []
    said: list[str] = []
    on_the_way, until = 0, 0.0
    for moment in refusals:
        if moment >= until:
            known, until = moment + UNDER_WAY, moment + seconds
            on_the_way += sum(moment < begin <= known for begin in begins)
            late = [line for line in calls if known < line["time"] < until]
            later.append(len(late))
            said += [f"{line['endpoint']} +{line['time'] - moment:.1f} s" for line in late]
    return Storm(len(later), on_the_way, sum(later), max(later, default=0), ", ".join(said[:20]))


def _corpus(work: Work) -> list[str]:
    from lucidworks_provider.corpus.dataset import open_dataset, open_documents
    from lucidworks_provider.errors import InputError

    output, texts = str(work.folder / "corpus"), work.catalogue.texts
    columns = ["document_id", "chunk_index", "text", "start", "end", "content_hash"]
    try:
        rows = open_dataset(output).to_table(columns=columns).to_pylist()
        documents = open_documents(output).to_table(columns=["document_id", "status", "content_hash"])
    except InputError as err:
        return [f"corpus: {err}"]
    listed = Counter((row["document_id"], row["content_hash"]) for row in documents.to_pylist())
    hashes = {(row["document_id"], row["content_hash"]) for row in rows}
    wrong = _compare("corpus", rows, texts)
    if listed != Counter(hashes):
        wrong.append(f"corpus: {listed.total()} rows of documents, {len(hashes)} documents with chunks")
    return wrong


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
    wrong = [f"{task}: {key}: unknown" for key in by_document.keys() - texts.keys()]
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
    wrong += [f"predict: {index}: unknown" for index in seen if index >= len(work.inputs)]
    # The emulator's summary is made of its input's words, and each input has one that is its own.
    for row in rows:
        own = work.inputs[row["index"]].split()[0]
        if own not in json.dumps(row):
            wrong.append(f"predict: {row['index']}: the answer to another input")
    return wrong
