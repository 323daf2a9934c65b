# SPDX-License-Identifier: Apache-2.0
"""The example ``index_in_postgres`` against a real PostgreSQL with pgvector, night after night."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import corpus_world
import deltalake
import psycopg
import pytest
from postgres_world import Index

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import dataset
from lucidworks_provider.errors import InputError, StorageError


@contextmanager
def failing_storage(after: int) -> Iterator[None]:
    """Half of the batch of this number is read, and then nothing."""
    changes = dataset.changes

    def broken(*args: Any, **options: Any) -> Iterator[Any]:
        for number, batch in enumerate(changes(*args, **options)):
            if number == after:
                yield batch.slice(0, batch.num_rows // 2)
                break
            yield batch
        raise StorageError("the storage is away")

    with mock.patch.object(dataset, "changes", broken):
        yield


@pytest.fixture
def loaded(index: Index) -> Index:
    """Twelve documents of three chunks each, after the first night."""
    index.world.set(prune=True)
    index.world.fill()
    index.night(None, 0, 0, 36)
    return index


def test_a_night_of_changes(loaded: Index) -> None:
    assert (len(loaded.rows), loaded.version) == (36, 0)
    loaded.world.write_all({"001.txt": "Shorter.", "new.txt": "A document that is new. " * 40})
    loaded.world.remove("002.txt")
    loaded.night(0, 1, 6, 6)
    assert {row[0] for row in loaded.rows}.isdisjoint({"002.txt"})
    # Nothing has changed: nothing is loaded.
    loaded.night(1, 1, 0, 0)


def test_what_vanished_stays_until_it_is_deleted(loaded: Index) -> None:
    loaded.world.set(prune=False)
    loaded.world.remove("002.txt")
    loaded.night(0, 0, 0, 0)
    loaded.world.set(prune=True)
    loaded.night(0, 1, 3, 0)


def test_a_load_that_fails_one_night_is_made_up_for_the_next(loaded: Index) -> None:
    first = loaded.rows
    # The batch of the deleted documents comes first, so it has been sent when the second one breaks off.
    loaded.world.write("001.txt", "Shorter.")
    loaded.world.remove("002.txt")
    with failing_storage(after=1), pytest.raises(StorageError):
        loaded.night()
    assert (loaded.rows, loaded.version) == (first, 0)
    loaded.world.remove("003.txt")
    loaded.world.write("new.txt", "A document that is new.")
    loaded.night(0, 2, 9, 2)


def test_random_nights_of_which_some_fail(index: Index) -> None:
    """After a load the rows are those of the catalogue, after a failed one those of the load before."""
    draw = random.Random(7)
    names = [f"{number:02}.txt" for number in range(30)]
    loads = failures = 0
    index.world.set(prune=True)
    index.world.write("always.txt", "It is always there.")
    index.night()
    for night in range(16):
        for name in draw.sample(names, 6):
            if name in index.world.expected and draw.random() < 0.4:
                index.world.remove(name)
            else:
                index.world.write(name, f"Night {night}, document {name}. " * draw.randrange(1, 60))
        if draw.random() < 0.4:
            failures += 1
            before = index.rows, index.version
            with failing_storage(after=draw.randrange(2)), pytest.raises(StorageError):
                index.night()
            assert (index.rows, index.version) == before
        else:
            loads += 1
            index.night()
    index.load()
    assert loads > 3
    assert failures > 3


def test_a_second_load_waits_for_the_first_and_finds_nothing_to_do(index: Index) -> None:
    index.world.fill()
    index.world.run()
    index.dag.create_tables.function()
    results: list[dict[str, Any]] = []
    output = index.world.corpus.output
    with psycopg.connect(index.connection.info.dsn, password=index.connection.info.password) as first:
        first.execute("SELECT version FROM lucidworks_loaded FOR UPDATE")
        loads = [
            threading.Thread(target=lambda: results.append(index.dag.load.function(output))) for _ in range(2)
        ]
        for one in loads:
            one.start()
        time.sleep(0.5)
        assert results == []
    for one in loads:
        one.join(30)

    assert sorted(one["inserted"] for one in results) == [0, 36]
    assert index.rows == index.expected


def test_a_document_that_loses_its_chunks(loaded: Index) -> None:
    nothing: dict[str, Any] = {"chunks": [], "spans": [], "vectors": []}
    loaded.world.service.answer = lambda text, body: (
        body | {"chunkedData": [nothing]} if "Empty" in text else body
    )
    loaded.world.set(max_reject_ratio=1.0)
    loaded.world.write("001.txt", "Empty from now on.")
    loaded.night()


def test_texts_and_ids_with_signs_of_sql(index: Index) -> None:
    document = {"id": 'it\'s a \\ "key"', "text": 'B \\ {"c", NULL} \r\n\t%s \U0001f600'}
    index.world.write("a.jsonl", json.dumps(document))
    index.night()
    assert [(row[0], row[2]) for row in index.rows] == [(document["id"], document["text"])]


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        (ChunkingOptions("sentence", "gte-small", model_config={"vectorQuantizationMethod": "max-scale"}), -128, 127),
        (ChunkingOptions("sentence", "gte-small", model_config={"vectorQuantizationMethod": "min-max"}), 0, 255),
    ],
    ids=["int8", "uint8"],
)  # fmt: skip
def test_quantised_vectors(index: Index, low: int, high: int) -> None:
    def quantised(text: str, body: dict[str, Any]) -> dict[str, Any]:
        for item in body["chunkedData"]:
            for vector in item["vectors"]:
                vector["vector"] = [low, high, 1, random.Random(text).randint(low, high)]
        return body

    index.world.service.answer = quantised
    index.world.fill()
    index.night()
    assert {row[3][0] for row in index.rows} == {low}


def test_the_index_finds_a_chunk_by_its_own_vector(index: Index) -> None:
    index.world.fill(60)
    index.night()
    nearest = index.dag.NEAREST

    index.connection.execute("SET enable_seqscan = off")
    plan = index.connection.execute(f"EXPLAIN {nearest}", ("[1,2,3,4]",)).fetchall()
    assert any("Index Scan using lucidworks_chunks_vector" in line for (line,) in plan)
    for document_id, number, _, vector in index.rows:
        first = index.connection.execute(nearest, (str(list(vector)),)).fetchone()
        assert first is not None
        assert first[:2] == (document_id, number)
        assert first[2] == pytest.approx(0, abs=1e-6)


def test_a_check_that_fails(loaded: Index) -> None:
    loaded.connection.execute("DELETE FROM lucidworks_chunks WHERE document_id = '003.txt'")
    with pytest.raises(ValueError, match="PostgreSQL has 33 chunks, the catalogue 36"):
        loaded.load()


def test_rows_of_other_programs_are_not_loaded(index: Index) -> None:
    index.world.set(deletion_vectors=False)
    index.world.fill()
    index.night()
    table = deltalake.DeltaTable(f"{index.world.output}/chunks")
    rows = table.to_pyarrow_table().slice(0, 1)
    rows = rows.set_column(0, rows.schema.field(0), [["strange"]])
    deltalake.write_deltalake(table, rows, mode="append")
    index.world.run()
    loaded = index.dag.load.function(str(index.world.output))
    index.dag.check.function(str(index.world.output), loaded)
    assert len(index.rows) == 36


@pytest.mark.parametrize("model", ["gte-small", "e5-small-v2"])
def test_a_full_refresh_with_another_model(
    loaded: Index, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """A new table replaces the old one, whose vectors have another dimension; a load that fails changes nothing."""
    before = loaded.rows
    monkeypatch.setattr(corpus_world, "DIMENSION", 8)
    loaded.world.set(options=ChunkingOptions("dynamic-sentence", model), full_refresh=True)
    with failing_storage(after=0), pytest.raises(StorageError):
        loaded.night()
    assert (loaded.rows, loaded.version) == (before, 0)

    loaded.load(None, 1, 0, 36)

    assert {len(row[3]) for row in loaded.rows} == {8}
    tables = loaded.connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'lucidworks_chunks%'")
    names = {name for (name,) in tables}
    assert names == {"lucidworks_chunks", "lucidworks_chunks_key", "lucidworks_chunks_vector"}
    # The next night loads the difference.
    loaded.world.set(full_refresh=False)
    loaded.world.write("001.txt", "Shorter.")
    loaded.night(1, 2, 3, 1)


def test_searches_during_a_change_of_the_catalogue(loaded: Index, tmp_path: Path) -> None:
    """They find all chunks of the old catalogue or all of the new one, with the options of these chunks."""
    index = loaded
    old = index.world.corpus.output
    new = str(tmp_path / "other")
    index.world.set(output=new, options=ChunkingOptions("dynamic-sentence", "e5-small-v2"))
    index.world.fill(20)
    index.world.run()
    seen: list[tuple[Any, ...] | None] = []
    done = threading.Event()
    search = "SELECT (SELECT catalogue FROM lucidworks_loaded), (SELECT count(*) FROM lucidworks_chunks)"

    def searches() -> None:
        info = index.connection.info
        with psycopg.connect(info.dsn, password=info.password, autocommit=True) as connection:
            while not done.is_set():
                seen.append(connection.execute(search).fetchone())

    thread = threading.Thread(target=searches)
    thread.start()
    try:
        index.load(None, 0, 0, 60)
        time.sleep(0.2)
    finally:
        done.set()
        thread.join(30)

    assert len(seen) > 10
    assert set(seen) == {(old, 36), (new, 60)}


def test_with_psycopg2(index: Index, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The provider uses it where SQLAlchemy is older than 2.0, as in Airflow 2.11."""
    monkeypatch.setattr("airflow.providers.postgres.hooks.postgres.USE_PSYCOPG3", False)
    test_a_night_of_changes(request.getfixturevalue("loaded"))


def test_a_catalogue_that_was_made_anew(loaded: Index) -> None:
    """Its versions begin at 0 again, so the loaded one is too high: an error, and not a wrong index."""
    loaded.connection.execute("UPDATE lucidworks_loaded SET version = 9")
    with pytest.raises(InputError, match="since is 9"):
        loaded.load()
