# SPDX-License-Identifier: Apache-2.0
"""
Run the commands of docs/tutorial.md in bash, from this clone and with an empty home.

Only the ports differ from the page, because those may be in use. Before the page's "Stop", the states of runs and
tasks are read from Airflow's API.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import tempfile
import time
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

PAGE = REPOSITORY / "docs" / "tutorial.md"
TIMEOUT = 900.0


def main() -> int:
    with install_signal_handlers(), tempfile.TemporaryDirectory(prefix="lucidworks-tutorial-") as folder:
        return follow(Path(folder).resolve())


def follow(folder: Path) -> int:
    """Run the page; the exit code."""
    home = folder / "home"
    home.mkdir()
    api, worker, trigger, emulator = free_ports(4)
    script = folder / "tutorial.sh"
    text = PAGE.read_text().replace("localhost:8080", f"localhost:{api}").replace("8765", str(emulator))
    script.write_text(as_script(text))
    environment = clean_environment()
    del environment["PYTHONPATH"]
    environment |= {
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).resolve().parent}:{environment['PATH']}",
        "AIRFLOW__API__PORT": str(api),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{api}",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://localhost:{api}/execution/",
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(worker),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(trigger),
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_PROXY": "localhost,127.0.0.1",
    }
    group = ProcessGroup()
    bash = ManagedProcess(
        ["bash", str(script)], environment, folder / "tutorial.log", REPOSITORY, name="tutorial", group=group
    )
    begin = time.monotonic()
    try:
        bash.start()
        bash.wait_for("^## Stop$", TIMEOUT)
        states = states_of(f"http://localhost:{api}", home / "lucidworks-tutorial" / "airflow")
        (home / "checked").touch()
        code = bash.wait(180)
    finally:
        bash.kill()
        group.close()
    output = bash.output()
    print(output)
    print(f"States: {states}. Exit code {code}, {time.monotonic() - begin:.0f} s.")
    [shown] = re.findall(r"^```text\n(Nothing.*?)^```", text, re.M | re.S)
    expected = [*shown.splitlines(), "changed cirrus.txt Cirrus is a stove.", '"submissions":3']
    missing = [line for line in expected if line not in output]
    print(f"Missing output: {missing}")
    return 1 if code or missing or set(states.values()) != {"success"} else 0


def as_script(page: str) -> str:
    """The page's commands, with its headings as progress; waits before "Stop" until the API was read."""
    parts = re.findall(r"^(## [^\n]*)$|^```sh\n(.*?)^```$", page, re.M | re.S)
    lines = ["set -e -o pipefail", "set -m"]
    for heading, code in parts:
        lines.append(f"printf '\\n%s\\n' {shlex.quote(heading)}" if heading else code)
        if heading == "## Stop":
            lines.append("until [ -e ../checked ]; do sleep 0.2; done")
    return "\n".join(lines)


def states_of(url: str, home: Path) -> dict[str, Any]:
    """The states of runs and tasks, with the login of the page."""
    [(user, password)] = json.loads(
        (home / "simple_auth_manager_passwords.json.generated").read_text()
    ).items()
    login = {"username": user, "password": password}
    session = loopback_session()
    token = session.post(f"{url}/auth/token", json=login, timeout=30).json()["access_token"]
    session.headers["Authorization"] = f"Bearer {token}"

    def get(path: str) -> Any:
        return session.get(f"{url}/api/v2/dags/nightly_chunks/{path}", timeout=30).json()

    runs = {run["dag_run_id"]: run["state"] for run in get("dagRuns")["dag_runs"]}
    tasks = {
        f"{run}/{task['task_id']}": task["state"]
        for run in runs
        for task in get(f"dagRuns/{run}/taskInstances")["task_instances"]
    }
    return runs | tasks


if __name__ == "__main__":
    sys.exit(main())
