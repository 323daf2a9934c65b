# SPDX-License-Identifier: Apache-2.0
"""
Every supported version of Airflow with every Python that it supports: the built wheel, in a real Airflow.

Each cell is an environment of its own, outside the checkout, with the newest patch release: what can be seen without
running anything is checked by ``dev.matrix_cell``; then ``airflow standalone`` runs ``dev.matrix_dag`` against an
emulator of the same environment. A cell whose interpreter is missing is reported as not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dev.airflow_api import loopback_session
from dev.processes import (
    REPOSITORY,
    ManagedProcess,
    ProcessGroup,
    clean_environment,
    free_ports,
    install_signal_handlers,
)

# What each minor release says of itself (requires-python).
PYTHONS: Mapping[str, Sequence[str]] = {
    "2.11": ("3.11", "3.12"),
    "3.0": ("3.11", "3.12"),
    "3.1": ("3.11", "3.12", "3.13"),
    "3.2": ("3.11", "3.12", "3.13"),
    "3.3": ("3.11", "3.12", "3.13"),
}
# Airflow is installed with constraints of its own day; from an index alone 3.0 and 3.2 get a FastAPI of today, which
# they do not know.
# And 3.0 and 3.1 know fields of a connection's form only with this provider, which the official image has.
BESIDES: Mapping[str, Sequence[str]] = {
    "3.0": ("apache-airflow-providers-fab", "fastapi<0.117"),
    "3.1": ("apache-airflow-providers-fab",),
    "3.2": ("fastapi<0.137",),
}
# The lowest, one between, and the highest.
SHORT = ("2.11", "3.1", "3.3")
RUN_SECONDS = 300


@dataclass
class Cell:
    """
    :param found: the error of each check; an empty text is a success.
    :param seconds: to install, and to run.
    """

    airflow: str
    python: str
    interpreter: str | None = None
    release: str = ""
    found: dict[str, str] = field(default_factory=dict)
    seconds: tuple[float, float] = (0.0, 0.0)

    @property
    def name(self) -> str:
        """For people and folders."""
        return f"Airflow {self.airflow}, Python {self.python}"

    @property
    def good(self) -> bool:
        """Whether it was run, and all is well."""
        return bool(self.found) and not any(self.found.values())


def interpreter_of(python: str) -> str | None:
    """One of the PATH, or one that pyenv has."""
    if sys.version_info[:2] == tuple(map(int, python.split("."))):
        return getattr(sys, "_base_executable", sys.executable)
    candidates = [shutil.which(f"python{python}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates += sorted(map(str, pyenv.glob(f"{python}.*/bin/python")), reverse=True)
    for candidate in candidates:
        if (
            candidate
            and subprocess.run(
                [candidate, "-c", "import venv, ensurepip"], capture_output=True, check=False
            ).returncode
            == 0
        ):
            return candidate
    return None


def play(cell: Cell, wheel: Path, root: Path) -> None:
    """Install, look, run."""
    begin = time.monotonic()
    bin_ = install(cell, wheel, root / "venv")
    installed = time.monotonic()
    home = root / "home"
    home.mkdir()
    environment = _without_checkout() | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
    }
    looked = _run([str(bin_ / "python"), str(_copy("matrix_cell.py", root))], root, environment)
    cell.found |= json.loads(looked.splitlines()[-1])
    try:
        cell.found |= run(cell, bin_, root, environment)
    except (RuntimeError, TimeoutError, OSError) as err:
        cell.found["run"] = f"{type(err).__name__}: {err}"
    cell.seconds = installed - begin, time.monotonic() - installed


def install(cell: Cell, wheel: Path, venv: Path) -> Path:
    """The wheel with the extras that a job needs, and the newest patch release; the folder of its programs."""
    _run([str(cell.interpreter), "-m", "venv", str(venv)], venv.parent, _without_checkout())
    bin_ = venv / "bin"
    pip = [str(bin_ / "python"), "-m", "pip", "--disable-pip-version-check"]
    wanted = [
        f"{wheel}[documents,emulator]",
        f"apache-airflow~={cell.airflow}.0",
        *BESIDES.get(cell.airflow, ()),
    ]
    _run([*pip, "install", "--quiet", "--upgrade", "pip>=25.1"], venv.parent, _without_checkout())
    _run([*pip, "install", "--quiet", *wanted], venv.parent, _without_checkout())
    shown = _run([*pip, "show", "apache-airflow"], venv.parent, _without_checkout())
    cell.release = next(line.split()[1] for line in shown.splitlines() if line.startswith("Version:"))
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True, check=False)
    cell.found["pip check"] = "" if checked.returncode == 0 else " ".join(checked.stdout.split())[:300]
    return bin_


def run(cell: Cell, bin_: Path, root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """A real Airflow of the cell; what is wrong with what its one run has done."""
    api, worker, trigger, emulator_port = free_ports(4)
    out = root / "out"
    dags = root / "dags"
    dags.mkdir()
    _copy("matrix_dag.py", dags)
    url = f"http://127.0.0.1:{emulator_port}"
    urls = dict.fromkeys(("auth_url", "application_url", "models_url"), url)
    connection = {
        "conn_type": "lucidworks",
        "login": "client",
        "password": "secret-of-the-matrix",
        "host": "app",
        "extra": urls,
    }
    environment = {
        **environment,
        "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": json.dumps(connection),
        "MATRIX_OUT": str(out),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{api}/execution/",
        "AIRFLOW__WEBSERVER__WEB_SERVER_HOST": "127.0.0.1",
        "AIRFLOW__WEBSERVER__WEB_SERVER_PORT": str(api),
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    python, group = str(bin_ / "python"), ProcessGroup()
    serve = [python, "-m", "lucidworks_provider.emulator", "--port", str(emulator_port)]
    serve += ["--client=client:secret-of-the-matrix", "--pending-seconds", "4"]
    with ExitStack() as stack:
        stack.callback(group.close)
        stack.enter_context(
            ManagedProcess(serve, environment, root / "emulator.log", root, name="emulator", group=group)
        )
        standalone = ManagedProcess(
            [python, "-m", "airflow", "standalone"],
            environment,
            root / "airflow.log",
            root,
            name="airflow",
            group=group,
        )
        stack.enter_context(standalone)
        database = root / "home" / "airflow.db"
        _started(database, standalone, api)
        # A task that starts before its API server fails without a retry.
        _run([python, "-m", "airflow", "dags", "unpause", "matrix"], root, environment)
        state = _ended(database, standalone)
        log = loopback_session().get(f"{url}/_emulator/log", timeout=30).json()
        return _judge(state, database, out, log)


def _started(database: Path, airflow: ManagedProcess, port: int) -> None:
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        with closing(socket.socket()) as probe:
            listening = probe.connect_ex(("127.0.0.1", port)) == 0
        if listening and _query(database, "SELECT 1 FROM dag WHERE dag_id = 'matrix'"):
            return
        if not airflow.alive:
            raise airflow.error("ended")
        time.sleep(0.5)
    raise TimeoutError(f"Airflow is not up within {RUN_SECONDS} s")


def _ended(database: Path, airflow: ManagedProcess) -> str:
    deadline = time.monotonic() + RUN_SECONDS
    while time.monotonic() < deadline:
        rows = _query(database, "SELECT state FROM dag_run WHERE dag_id = 'matrix'")
        if rows and rows[0][0] in {"success", "failed"}:
            return str(rows[0][0])
        if not airflow.alive:
            raise airflow.error("ended")
        time.sleep(0.5)
    tasks = _query(database, "SELECT task_id, state, try_number FROM task_instance WHERE dag_id = 'matrix'")
    raise TimeoutError(f"the run has not ended within {RUN_SECONDS} s: {tasks}")


def _judge(state: str, database: Path, out: Path, log: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    tries = dict(_query(database, "SELECT task_id, try_number FROM task_instance WHERE dag_id = 'matrix'"))
    made = [line["text_sha256"] for line in log if line["endpoint"] == "submit" and line["status"] == 200]
    issued = sum(line["endpoint"] == "token" and line["status"] == 200 for line in log)
    refused = sum(line["status"] == 401 for line in log)
    texts = ("Once deferred.", "Twice deferred.", "Only once submitted.")
    expected = sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)
    stored = [
        str(row)
        for row in _query(
            database, "SELECT key, val, is_encrypted FROM variable WHERE key LIKE 'lucidworks_live_%'"
        )
    ]
    rows = _rows(out)
    return {
        "run": "" if state == "success" else f"the run ended as {state}",
        "token": "" if (issued, refused) == (1, 0) else f"{issued} token requests, {refused} calls refused",
        "token store": ""
        if len(stored) == 1 and not re.search(r"eyJ[\w-]+\.", stored[0])
        else f"{len(stored)} Variables",
        "deferred job": "" if rows.get("deferred") == ["Once deferred.", "Twice deferred."] else f"{rows}",
        "found after kill -9": ""
        if sorted(made) == expected
        and tries.get("killed", 0) >= 2
        and rows.get("killed") == ["Only once submitted."]
        else f"{len(made)} submissions instead of {len(expected)}, {tries.get('killed')} tries, {rows.get('killed')}",
    }


def _rows(out: Path) -> dict[str, list[str]]:
    import pyarrow.parquet as pq

    return {
        path.stem: pq.read_table(path).column("text").to_pylist() for path in sorted(out.glob("*.parquet"))
    }


def _query(database: Path, sql: str) -> list[Any]:
    if not database.exists():
        return []
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            return connection.execute(sql).fetchall()
    except sqlite3.OperationalError:  # not migrated yet
        return []


def _without_checkout() -> dict[str, str]:
    """For processes that must see nothing but what is installed."""
    environment = clean_environment()
    del environment["PYTHONPATH"]
    return environment


def _copy(name: str, folder: Path) -> Path:
    return Path(shutil.copy(Path(__file__).with_name(name), folder))


def _run(command: Sequence[str], cwd: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=dict(environment), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:6])} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


def cells(*, short: bool, only: str | None) -> list[Cell]:
    """The requested cells, with their interpreters."""
    all_cells = [Cell(airflow, python) for airflow, pythons in PYTHONS.items() for python in pythons]
    for cell in all_cells:
        cell.interpreter = interpreter_of(cell.python)
    if only:
        return [cell for cell in all_cells if only in f"{cell.airflow}/{cell.python}"]
    if not short:
        return all_cells
    chosen = []
    for airflow in SHORT:
        there = [cell for cell in all_cells if cell.airflow == airflow and cell.interpreter]
        # The oldest Airflow with the oldest Python, the newest with the newest that is here.
        chosen += there[-1:] if airflow == SHORT[-1] else there[:1]
    return chosen


def main() -> int:
    """Play the cells, print the table; 1 where something is wrong, or too little could be run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help=f"one cell each of Airflow {', '.join(SHORT)}")
    parser.add_argument("--only", help="cells with this in their name, e.g. 3.1/3.12 or 2.11/")
    parser.add_argument("--keep", type=Path, help="a new folder for everything, kept afterwards")
    options = parser.parse_args()
    chosen = cells(short=options.short, only=options.only)
    with install_signal_handlers(), tempfile.TemporaryDirectory(prefix="matrix-") as temporary:
        root = options.keep or Path(temporary)
        root.mkdir(parents=True, exist_ok=True)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(root)]
        _run([*build, str(REPOSITORY)], root, _without_checkout())
        (wheel,) = root.glob("*.whl")
        for cell in chosen:
            if cell.interpreter is None:
                print(f"not run  {cell.name}: no such interpreter here", flush=True)
                continue
            folder = root / cell.name.replace(" ", "-").replace(",", "")
            folder.mkdir()
            try:
                play(cell, wheel, folder)
            except RuntimeError as err:
                cell.found["install"] = str(err)
            wrong = {name: text for name, text in cell.found.items() if text}
            told = f"{cell.seconds[0]:.0f} s to install, {cell.seconds[1]:.0f} s to run"
            print(f"{'ok' if cell.good else 'WRONG':<8} {cell.name}: {cell.release}, {told}", flush=True)
            for name, text in wrong.items():
                print(f"    {name}: {text[:1500]}", flush=True)
            if options.keep is None:
                shutil.rmtree(folder)
    print("\n| Airflow | Python | release | | checks |")
    print("| --- | --- | --- | --- | --- |")
    for cell in chosen:
        said = "ok" if cell.good else "wrong" if cell.found else "not run"
        print(f"| {cell.airflow} | {cell.python} | {cell.release} | {said} | {', '.join(cell.found)} |")
    ran = [cell for cell in chosen if cell.found]
    good, missing = sum(cell.good for cell in chosen), len(chosen) - len(ran)
    print(f"\n{good} of {len(chosen)} cells are good, {missing} were not run")
    enough = len({cell.airflow for cell in ran}) >= len({cell.airflow for cell in chosen}) and ran
    return int(not enough or not all(cell.good for cell in ran))


if __name__ == "__main__":
    sys.exit(main())
