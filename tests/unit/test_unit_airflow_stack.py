# SPDX-License-Identifier: Apache-2.0
"""The database that the live tests start with."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from dev.airflow_stack import new_database


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of an environment with Airflow in it."""
    packages = tmp_path / "environment" / "lib" / "python3.11" / "site-packages"
    (packages / "apache_airflow_core-3.3.2.dist-info").mkdir(parents=True)
    return tmp_path / "environment" / "bin" / "python"


def test_the_kept_database_has_what_an_open_connection_wrote(python: Path, tmp_path: Path) -> None:
    """``initdb`` leaves its connection open: SQLite then has the tables in its log, not in the file."""
    first = tmp_path / "first.db"
    with closing(sqlite3.connect(first)) as connection:

        def migrate() -> None:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE dag (dag_id TEXT)")
            connection.commit()

        new_database(first, python, migrate)
        new_database(tmp_path / "second.db", python, lambda: pytest.fail("migrated twice"))
        with closing(sqlite3.connect(tmp_path / "second.db")) as second:
            assert second.execute("SELECT name FROM sqlite_master").fetchall() == [("dag",)]
            assert second.execute("PRAGMA journal_mode").fetchone() == ("wal",)
