# SPDX-License-Identifier: Apache-2.0
"""
What 429s at random cost a run over a corpus.

::

    python -m benchmarks.rate_noise           # 800 and 5,000 documents of 3 KB; none, 0.5, 2 and 5 % of 429s
    python -m benchmarks.rate_noise --short   # 800 documents

The emulator answers that share of the calls with 429 and ``Retry-After: 1``, whatever the rate; an answer takes 5 ms,
a job 0.4 s. Beside the operator a loop of 64 threads with a ``requests.Session`` each, in which each request waits
for its own ``Retry-After``. Both run in processes of their own, one after the other, with a new emulator each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

# Airflow makes its home where it is imported; this one is thrown away.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import requests

from benchmarks.corpus_baseline import CHUNKER, MODEL, bearer
from benchmarks.corpus_documents import write_documents
from dev.demo import Emulator

THREADS, JOB_SECONDS, LATENCY, DOCUMENT_BYTES = 64, 0.4, 0.005, 3_072
SHARES = (0.0, 0.005, 0.02, 0.05)
# To reach, of the loop's time and of our own without 429s.
OF_LOOP, OF_OWN = 1.3, 1.5


def loop(url: str, source: Path) -> float:
    """Seconds of the threads for all documents; what they receive is dropped."""
    headers = bearer(url)
    kept = threading.local()

    def send(method: str, path: str, body: object = None) -> requests.Response:
        if not hasattr(kept, "session"):
            kept.session = requests.Session()
            kept.session.headers.update(headers)
        while True:
            answer: requests.Response = kept.session.request(method, url + path, json=body, timeout=30)
            if answer.status_code != 429:
                return answer
            time.sleep(float(answer.headers["Retry-After"]))

    def chunk(path: Path) -> None:
        body = {"batch": [{"text": path.read_text()}], "useCaseConfig": {"dataType": "passage"}}
        job = send("POST", f"/ai/async-chunking/{CHUNKER}/{MODEL}", body).json()["chunkingId"]
        while send("GET", f"/ai/async-chunking/{job}").json()["status"] != "READY":
            time.sleep(0.1)

    began = time.monotonic()
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(chunk, sorted(source.rglob("*.txt"))))
    return time.monotonic() - began


def corpus(source: Path, output: Path) -> float:
    """Seconds of the operator, the dataset included."""
    from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

    operator = LucidworksChunkCorpusOperator(
        task_id="t", source=str(source), output_uri=str(output), chunker=CHUNKER, model_id=MODEL
    )
    instance = SimpleNamespace(
        dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, max_tries=0, task=operator,
        xcom_push=lambda key, value: None,
    )  # fmt: skip
    began = time.monotonic()
    manifest = operator.execute({"ti": instance})  # type: ignore[typeddict-item]
    seconds = time.monotonic() - began
    if manifest["documents"] != len(list(source.rglob("*.txt"))):
        raise SystemExit(f"documents are missing: {manifest}")
    return seconds


def measure(who: str, source: Path, share: float) -> tuple[float, int]:
    """Seconds, and 429s, in a process and with an emulator of its own."""
    folder = Path(tempfile.mkdtemp(prefix="rate-"))
    with Emulator(folder / "emulator.log") as emulator:
        wanted = {"shed_share": share, "latency": LATENCY, "pending_seconds": JOB_SECONDS, "pending_polls": 0}
        requests.patch(f"{emulator.url}/_emulator/settings", json=wanted, timeout=10).raise_for_status()
        environment = {
            **os.environ,
            "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(share_via="memory"),
        }
        command = [sys.executable, "-m", "benchmarks.rate_noise", "--child", who, emulator.url, str(source)]
        done = subprocess.run(
            [*command, str(folder / "output")], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        refused: int = emulator.get("stats")["rate_limited"]
    return float(json.loads(done.stdout.splitlines()[-1])), refused


def main() -> int:
    """Measure all; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="800 documents only")
    parser.add_argument("--child", nargs=4, metavar="X", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        who, url, source, output = given.child
        print(json.dumps(loop(url, Path(source)) if who == "loop" else corpus(Path(source), Path(output))))
        return 0
    good = True
    print(f"| documents | 429s at random | operator | 429s | {THREADS} threads | of theirs | of its own |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for documents in (800,) if given.short else (800, 5_000):
        with tempfile.TemporaryDirectory(prefix="documents-") as name:
            source = Path(name)
            write_documents(source, documents, DOCUMENT_BYTES)
            own = 0.0
            for share in SHARES:
                theirs, _ = measure("loop", source, share)
                ours, refused = measure("operator", source, share)
                own = own or ours
                print(
                    f"| {documents:,} | {share:.1%} | {ours:.1f} s | {refused} | {theirs:.1f} s "
                    f"| {ours / theirs:.2f} | {ours / own:.2f} |",
                    flush=True,
                )
                good = good and ours <= OF_LOOP * theirs and ours <= OF_OWN * own
    print(f"\nTo reach: {OF_LOOP:g} times theirs, {OF_OWN:g} times its own without 429s.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
