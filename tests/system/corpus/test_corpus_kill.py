# SPDX-License-Identifier: Apache-2.0
"""
``kill -9`` at three random moments of runs in child processes, and races of four runs, checked document by document.

More of them are ``python -m tests.system.corpus.kill`` and ``python -m tests.system.corpus.races``.
"""

import hashlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from dev.demo import Emulator
from dev.processes import until
from lucidworks_provider.corpus import open_dataset, open_documents
from tests.system.corpus.judge import Catalogue, ServiceLog, judge
from tests.system.corpus.kill import SERVICE, Plain, Story, store
from tests.system.corpus.races import RUNNERS, WON, Races
from tests.system.corpus.readers import Readers

KILLS = 3


@pytest.mark.usefixtures("plain_network")
def test_every_document_is_there_once_whenever_the_process_dies(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    (tmp_path / "source").mkdir()
    with Emulator(tmp_path / "emulator.log", *SERVICE) as emulator:
        runner = Plain(tmp_path, emulator)
        reading = Readers(runner.store.output, tmp_path / "states.jsonl", {}, {})
        story = Story(
            tmp_path, emulator, runner, kills=KILLS, documents=60, span=3, seed=seed, reading=reading
        )
        verdicts = story.play()
        reads, faults = reading.stop()
        assert faults == []
        assert reads > 0
        assert len(story.moments) == KILLS
        assert [verdict.wrong for verdict in verdicts] == [[]] * len(verdicts)
        assert verdicts[-1].twice <= verdicts[-1].in_flight + verdicts[-1].unflushed
        # Earlier nights can be read for as long as the retention.
        for version, night in story.published.items():
            hashes = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in night.items()}
            assert _hashes(tmp_path / "output", version) == hashes

        # What killed processes have left is removed once it is older than the retention.
        time.sleep(1)
        story.catalogue.change()
        runner.options["retention"] = 0.5
        runner.begin(99)
        runner.finish()
        cleaned = story.judge()
        assert (cleaned.wrong, cleaned.litter) == ([], [])

        # The comparison finds each of these errors.
        texts = story.catalogue.texts
        changed, unknown, *_ = sorted(texts)
        texts[changed] += "!"
        del texts[unknown]
        texts["lost.txt"] = "Never sent."
        (tmp_path / "output" / "chunks" / "stray.parquet").touch()
        (tmp_path / "output" / "lease" / "99999999.json").touch()
        verdict = story.judge()
        rows = len(open_documents(str(tmp_path / "output")))
    assert verdict.wrong == [
        f"{unknown}: not in the source",
        f"{changed}: chunks of another version",
        f"{changed}: the emulator never answered this text",
        "lost.txt: missing",
        "lost.txt: the emulator never answered this text",
        f"the documents have {rows} rows of {rows} documents, {len(texts)} with chunks",
        f"{unknown}: its status is ok",
        "lease/99999999.json is not released",
    ]
    assert verdict.litter == ["chunks/stray.parquet"]
    assert not verdict.good


@pytest.mark.usefixtures("plain_network")
@pytest.mark.parametrize(("s3", "count"), [(False, 2), (True, 1)])
def test_of_runs_that_start_at_once_one_publishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: bool, count: int
) -> None:
    # To be forgotten afterwards.
    monkeypatch.setenv("AIRFLOW_CONN_BENCH_S3", "")
    with (
        # The runs share no token here, as they do in Airflow.
        Emulator(tmp_path / "emulator.log", *SERVICE, "--both-tokens-live") as emulator,
        store(tmp_path, s3=s3) as place,
    ):
        races = Races(tmp_path, emulator, place, documents=20, seed=1)
        races.play(count)
    assert races.wrong == []
    assert (races.outcomes[WON], races.outcomes.total()) == (count, RUNNERS * count)


@pytest.mark.usefixtures("plain_network")
def test_a_try_that_lives_on_beside_its_successor_stops_and_spoils_nothing(tmp_path: Path) -> None:
    """Airflow gave it up, but its process was only suspended."""
    (tmp_path / "source").mkdir()
    # The two do not share a token here, as they do in Airflow.
    with Emulator(tmp_path / "emulator.log", *SERVICE, "--both-tokens-live") as emulator:
        runner = Plain(tmp_path, emulator)
        story = Story(tmp_path, emulator, runner, kills=0, documents=60, span=0, seed=1)
        story.catalogue.fill(60)
        runner.begin(1)
        zombie = runner.child
        until(lambda: len(emulator.submissions()) >= 20, "submissions")
        assert zombie.pid is not None
        os.kill(zombie.pid, signal.SIGSTOP)
        stopped, before = time.time(), len(emulator.submissions())
        runner.start()
        until(lambda: len(emulator.submissions()) >= before + 5, "submissions")
        os.kill(zombie.pid, signal.SIGCONT)
        assert runner.finish()["documents"] == 60
        zombie.join(30)
        assert story.judge().wrong == []
        # What it wrote before it looked again is in no version, and is removed once it is older than the retention.
        time.sleep(1)
        runner.options["retention"] = 0.5
        story.catalogue.change()
        runner.begin(2)
        delta = runner.finish()
        assert delta["submitted"] == delta["added"] + delta["changed"]
        cleaned = story.judge()
        assert (cleaned.wrong, cleaned.litter) == ([], [])
    assert not (tmp_path / "output" / "journal").exists()
    assert zombie.exitcode == 1
    log = (tmp_path / "returned-1.log").read_text()
    assert "OutputBusyError" in log
    print(f"the two were through {time.time() - stopped:.1f} s after the stop")


def _hashes(output: Path, version: int) -> dict[str, str]:
    """Of the documents of a version."""
    rows = open_dataset(str(output), version).to_table(columns=["document_id", "content_hash"]).to_pylist()
    return {row["document_id"]: row["content_hash"] for row in rows}


def test_no_dataset_is_no_success(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path / "source", random.Random(1))
    assert judge(catalogue, str(tmp_path / "nothing"), ServiceLog([]), []).wrong == [
        "there is no table chunks",
        "there is no table documents",
    ]


def test_what_a_kill_may_cost() -> None:
    def line(begin: float, end: float, **more: object) -> dict[str, object]:
        return {
            "endpoint": "submit",
            "status": 200,
            "time": begin,
            "seconds": end - begin,
            "job_status": None,
            "text_sha256": "a",
            "job_id": "1",
        } | more

    ledger = ServiceLog.of(
        [
            line(1, 2),  # long written
            line(8, 9.8),  # arrived, and in the group that was not written
            line(9, 11),  # in flight
            line(10.2, 11),  # sent before, begun after
            line(10.1, 11, endpoint="poll", job_status="READY"),
            line(10.1, 11, endpoint="poll", job_status="SUBMITTED"),  # costs nothing
            line(10.1, 11, status=429),
            line(12, 13),  # the next try's
        ]
    )
    assert ledger.at_stake(10) == (3, 1)
    assert ledger.submissions() == {"a": 5}
