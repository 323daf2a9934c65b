# SPDX-License-Identifier: Apache-2.0
"""What docs/testing.md promises: its files, written out as a reader would, run with pytest in their own folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import lucidworks_provider

ROOT = Path(lucidworks_provider.__file__).parents[1]
PAGE = ROOT / "docs" / "testing.md"


def test_the_page_word_by_word(tmp_path: Path) -> None:
    dag, its_test, hook_test, unkind = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    for name, code in (
        ("dags/catalogue.py", dag),
        ("tests/test_catalogue.py", its_test),
        ("tests/test_hook.py", hook_test),
        ("tests/test_unkind.py", unkind),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "AIRFLOW_HOME": str(tmp_path / ".airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": "dags",
        # A proxy that nobody answers at: the fixture's requests go past it.
        "HTTP_PROXY": "http://127.0.0.1:9",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout

    run("airflow", "db", "migrate")
    said = run("pytest", "-v", "-p", "no:cacheprovider", "tests")

    assert len(re.findall(r"^tests/\S+::\S+ PASSED", said, re.M)) == 4, said


def test_every_run_of_pytest_loads_it_so_it_is_light() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); "
        "import lucidworks_provider.emulator.pytest_plugin; "
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "{'lucidworks_provider'}"
