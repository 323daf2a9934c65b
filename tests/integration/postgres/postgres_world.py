# SPDX-License-Identifier: Apache-2.0
"""The chunks of a catalogue and those of a PostgreSQL, to be compared."""

import json
from array import array
from dataclasses import dataclass
from typing import Any

import psycopg
from corpus_world import World

from lucidworks_provider.corpus import open_dataset

# Document, number, text, and the vector as 32-bit numbers.
Row = tuple[Any, ...]


def rows_of(output: str) -> list[Row]:
    """The chunks of a catalogue."""
    columns = ["document_id", "chunk_index", "text", "vector"]
    rows = open_dataset(output).to_table(columns=columns).to_pylist()
    return sorted((*list(row.values())[:3], array("f", row["vector"])) for row in rows)


def loaded_rows(connection: psycopg.Connection[Any]) -> list[Row]:
    """The chunks of a PostgreSQL; its vectors are 32-bit numbers, too."""
    found = connection.execute("SELECT document_id, chunk_index, text, vector::text FROM lucidworks_chunks")
    return sorted((*row[:3], array("f", json.loads(row[3]))) for row in found)


@dataclass
class Index:
    """
    A catalogue, the DAG that loads it, and where it is loaded to.

    :param dag: the module of the example DAG.
    """

    world: World
    dag: Any
    connection: psycopg.Connection[Any]

    def load(self, *counts: int | None) -> None:
        """
        A run of the DAG, task by task, after which PostgreSQL has the chunks of the catalogue.

        :param counts: of what it has to return: since, until, deleted, inserted.
        """
        self.dag.create_tables.function()
        loaded: dict[str, Any] = self.dag.load.function(self.world.corpus.output)
        self.dag.check.function(self.world.corpus.output, loaded)
        assert self.rows == self.expected
        if counts:
            assert loaded == dict(zip(("since", "until", "deleted", "inserted"), counts, strict=True))

    def night(self, *counts: int | None) -> None:
        """A run of the catalogue and of the DAG."""
        self.world.run()
        self.load(*counts)

    @property
    def expected(self) -> list[Row]:
        return rows_of(self.world.corpus.output)

    @property
    def rows(self) -> list[Row]:
        return loaded_rows(self.connection)

    @property
    def version(self) -> int | None:
        """The version that PostgreSQL says it has."""
        [[version]] = self.connection.execute("SELECT version FROM lucidworks_loaded").fetchall()
        return version
