# SPDX-License-Identifier: Apache-2.0
"""
Where secrets and texts are after a day in a real Airflow: every log, every table, every file, every process.

Each secret is a canary of its own, so a hit identifies it. Client secret and third parties' keys may be
in Airflow's encrypted connections, the access token in its encrypted Variable; nothing else may hold any. Texts of
documents may be in their source and in the dataset.
"""

import base64
import json
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from dev.airflow_stack import AirflowStack
from lucidworks_provider.emulator import EmulatorSettings, running

pytestmark = pytest.mark.live

DAGS = Path(__file__).with_name("audit_dags.py")


def canary(name: str) -> str:
    """A value unlike a token, so that no filter masks it as one."""
    return f"canary-{name}-{secrets.token_hex(12)}"


def spellings(value: str) -> set[bytes]:
    """How a file or a table may write it."""
    raw = value.encode()
    return {raw, value.encode("utf-16-le"), raw[::-1], raw.hex().encode()} | {
        # Base64 at each of the three places that it can begin at, without what depends on the neighbours.
        base64.b64encode(b"\0" * shift + raw)[4 if shift else 0 : -4]
        for shift in range(3)
    }


@dataclass
class Audit:
    """
    :param home: everything that Airflow writes, its temporary files included.
    :param canaries: what must not be found, by name.
    """

    airflow: AirflowStack
    root: Path
    out: Path
    canaries: dict[str, str]
    states: dict[str, str] = field(default_factory=dict)
    processes: dict[int, bytes] = field(default_factory=dict)

    def run(self, dag_id: str) -> dict[str, str]:
        """A run to its end; the states of its tasks."""
        run_id = self.airflow.trigger(dag_id)
        self.airflow.wait_for_run(dag_id, run_id, 240)
        return {one["task_id"]: one["state"] for one in self.airflow.task_instances(dag_id, run_id)}

    def watch_processes(self, stop: threading.Event) -> None:
        """Arguments and environment of every process of Airflow, as every process of the same user sees them."""
        while not stop.wait(0.1):
            for process in self.airflow.processes():
                with suppress(psutil.Error, OSError):
                    shown = Path(f"/proc/{process.pid}/environ").read_bytes()
                    shown += Path(f"/proc/{process.pid}/cmdline").read_bytes()
                    self.processes[process.pid] = shown

    def found(self, *places: Path) -> list[str]:
        """Canaries in files; of a database in each of its tables, apart from its file."""
        hits = []
        for place in places:
            for path in sorted(place.rglob("*")):
                if path.is_file():
                    hits += [
                        f"{path.relative_to(self.root)}: {name}" for name in self.within(path.read_bytes())
                    ]
        return hits

    def within(self, content: bytes) -> list[str]:
        """The names of the canaries in it, also where it is compressed JSON."""
        with suppress(zlib.error):
            content += zlib.decompress(content)
        return [
            name for name, value in self.canaries.items() if any(one in content for one in spellings(value))
        ]

    def found_in_tables(self) -> list[str]:
        """Canaries in the metadata database, by table and column."""
        hits = []
        with closing(sqlite3.connect(self.root / "home" / "airflow.db")) as database:
            database.text_factory = bytes
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
            for (table,) in tables:
                rows = database.execute(f'SELECT * FROM "{table.decode()}"')  # noqa: S608
                columns = [one[0] for one in rows.description]
                for row in rows:
                    for column, value in zip(columns, row, strict=True):
                        if isinstance(value, bytes):
                            hits += [f"{table.decode()}.{column}: {name}" for name in self.within(value)]
        return hits


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    root = tmp_path_factory.mktemp("audit")
    for name in ("dags", "tmp", "source", "outside", "events"):
        (root / name).mkdir()
    shutil.copy(DAGS, root / "dags")
    names = ("secret", "wrong", "argument", "connection", "training", "text", "rejected", "html")
    canaries = {name: canary(name) for name in names}
    (root / "outside" / "key").write_text(canaries["argument"])
    (root / "source" / "a.txt").write_text(f"A sentence of {canaries['text']}. Another one.")
    (root / "source" / "b.html").write_text(f"<html><p>Of {canaries['html']}.</p><script>x</script></html>")
    (root / "source" / "c.txt").write_bytes(
        f"Of {canaries['rejected']} \x00\x01\x02".encode() + b"\xff\xfe\x80" * 40
    )
    settings = EmulatorSettings(
        clients={"client": canaries["secret"]},
        pending_seconds=1.0,
        training_seconds=1.0,
        customer_id="customer",
        token_ttl=20,
    )
    with ExitStack() as stack:
        stack.callback(os.umask, os.umask(0o027))
        emulator = stack.enter_context(running(settings))
        issue = emulator.state.tokens.issue

        def noting(*args: Any, **options: Any) -> Any:
            text, token = issue(*args, **options)
            canaries[f"token {len(canaries)}"] = text
            return text, token

        emulator.state.tokens.issue = noting  # type: ignore[method-assign]
        airflow = AirflowStack(
            root / "home",
            root / "dags",
            env={
                "AUDIT_OUT": str(root / "out"),
                "AUDIT_SOURCE": str(root / "source"),
                "AUDIT_KEY_FILE": str(root / "outside" / "key"),
                "TMPDIR": str(root / "tmp"),
                "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
                "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                    {"type": "file", "log_file_path": str(root / "events" / "event"), "append": False}
                ),
                "AIRFLOW__OPENLINEAGE__EMISSION_POLICY": json.dumps(
                    [{"scope": {}, "controls": {"include_full_task_info": True}}]
                ),
            },
        )
        stack.enter_context(airflow)
        urls = dict.fromkeys(("auth_url", "application_url", "models_url"), emulator.url)
        lwai: dict[str, Any] = {
            "conn_type": "lucidworks",
            "login": "client",
            "host": "app",
            "extra": json.dumps(urls | {"customer_id": "customer"}),
        }
        for connection_id, fields in {
            "lucidworks_default": lwai | {"password": canaries["secret"]},
            "wrong": lwai | {"password": canaries["wrong"]},
            "third_party": {"conn_type": "generic", "password": canaries["connection"]},
            "training_data": {
                "conn_type": "google_cloud_platform",
                "extra": json.dumps(
                    {"keyfile_dict": {"type": "service_account", "private_key": canaries["training"]}}
                ),
            },
        }.items():
            airflow.api("POST", "connections", connection_id=connection_id, **fields)
        this = Audit(airflow, root, root / "out", canaries)
        stop = threading.Event()
        watching = threading.Thread(target=this.watch_processes, args=(stop,))
        watching.start()
        try:
            for dag_id in ("audit_keys", "audit_texts"):
                airflow.wait_for_dag(dag_id)
                airflow.unpause(dag_id)
                this.states |= this.run(dag_id)
        finally:
            stop.set()
            watching.join()
        yield this


def test_the_tasks_did_what_they_should(audit: Audit) -> None:
    """Or there would be little to find."""
    assert audit.states == {
        "in_an_argument": "success",
        "by_a_connection": "success",
        "train": "success",
        "refused": "failed",
        "wrong_secret": "failed",
        "corpus": "success",
    }
    assert len([name for name in audit.canaries if name.startswith("token")]) >= 2
    assert len(audit.processes) > 8


def test_the_search_finds_secrets(audit: Audit) -> None:
    assert set(audit.found(audit.root / "outside", audit.root / "source")) == {
        "outside/key: argument",
        "source/a.txt: text",
        "source/b.html: html",
        "source/c.txt: rejected",
    }
    own = audit.canaries["secret"]
    for written in (f'{{"a": "{own}"}}', base64.b64encode(f"client:{own}".encode()).decode()):
        assert audit.within(written.encode()) == ["secret"]
        assert audit.within(zlib.compress(written.encode())) == ["secret"]


def test_no_table_holds_any(audit: Audit) -> None:
    assert audit.found_in_tables() == []


def test_no_file_holds_any(audit: Audit) -> None:
    """Logs of tasks, triggers and parts, temporary files, results, records."""
    logs = [path for path in (audit.root / "home" / "logs").rglob("*.log") if path.stat().st_size]
    assert len(logs) >= len(audit.states)
    assert audit.found(audit.root / "home", audit.root / "tmp") == []
    # The texts are in the dataset, compressed; its report is plain text.
    assert [hit for hit in audit.found(audit.out) if not hit.endswith((": text", ": html"))] == []
    assert audit.within((audit.out / "corpus" / "report.html").read_bytes()) == []


def test_results_have_the_modes_of_the_umask(audit: Audit) -> None:
    """As docs/security.md says: 027 keeps other users out."""
    modes = {str(path.relative_to(audit.out)): path.stat().st_mode & 0o777 for path in audit.out.rglob("*")}
    assert len(modes) > 5
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o027} == {}


def test_no_lineage_event_has_any(audit: Audit) -> None:
    """With every option of the OpenLineage provider that adds facts about a task."""
    events = [json.loads(path.read_bytes()) for path in (audit.root / "events").iterdir()]
    assert {event["job"]["name"].split(".")[-1] for event in events} >= set(audit.states)
    assert audit.found(audit.root / "events") == []


def test_no_process_shows_any(audit: Audit) -> None:
    assert [(pid, audit.within(shown)) for pid, shown in audit.processes.items() if audit.within(shown)] == []


def test_airflow_itself_can_still_read_its_own(audit: Audit) -> None:
    """The token and the secrets are encrypted in the database, and not missing from it."""
    shown = subprocess.run(
        [sys.executable, "-m", "airflow", "connections", "get", "lucidworks_default", "-o", "json"],
        env={**os.environ, **audit.airflow.config.environment(), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert audit.canaries["secret"] in shown.stdout
