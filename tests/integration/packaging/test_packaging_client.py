# SPDX-License-Identifier: Apache-2.0
"""The script of docs/client.md, as it is, in a process that cannot import Airflow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from lucidworks_provider.emulator.server import RunningEmulator

ROOT = Path(__file__).parents[3]
MEMORY = '{"share_via": "memory"}'


def test_the_script_runs_without_airflow(emulator: RunningEmulator) -> None:
    [script] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/client.md").read_text(), re.S)
    connection = json.loads(emulator.conn_json(**json.loads(MEMORY)))
    assert script.count(MEMORY) == 1
    script = script.replace(MEMORY, repr(connection["extra"]))
    environment = {
        "PYTHONPATH": str(ROOT),
        "LUCIDWORKS_CLIENT_ID": connection["login"],
        "LUCIDWORKS_CLIENT_SECRET": connection["password"],
        "LUCIDWORKS_APPLICATION_ID": connection.get("host") or "app",
    }
    command = [sys.executable, "-c", f"import sys; sys.modules['airflow'] = None\n{script}"]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["384", "384"]
    assert len(emulator.state.log.issued) == 1
