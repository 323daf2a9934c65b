# SPDX-License-Identifier: Apache-2.0
"""
Runs the Python blocks of the pages in a process of its own, which has an Airflow home and an emulator.

``python page_runner.py FOLDER``: the DAG files lie in ``FOLDER/dags``, and ``FOLDER/home/empty.db`` is a database
after its migration. ``FOLDER/results.json`` has what became of each block, by its id: the error if there was one, and
what the tasks of a DAG returned; and of each command that starts Python: its exit code and its output.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import sqlite3
import sys
import time
import traceback
from contextlib import closing, redirect_stderr, redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any
from unittest import mock

from page_blocks import Block, Fate, commands_of, module_of, of

from dev.processes import hurried

FOLDER = Path(sys.argv[1])
PLACES = FOLDER / "places"
TENT = "Two people fit. It takes three minutes to pitch."
SOURCES = {
    **dict.fromkeys(("bucket/catalogue", "catalogue/texts", "documents"), TENT),
    # Of a page that says that its text is not in Airflow's database.
    "bucket/invoices": "Invoice 4711 is unpaid.",
}
# Tasks that wait for what nothing on the page has made: the id of a model.
NEEDS_A_MODEL = "model_id"


def placed(code: str) -> str:
    """The same with places of this run in place of those of the page: a bucket, and /tmp/lucidworks."""
    code = re.sub(r"s3://aws_default@(?=\w)", f"{PLACES.as_uri()}/", code)
    return code.replace("file:///tmp/lucidworks", PLACES.as_uri())


def run_dags(block: Block) -> dict[str, Any]:
    """Run the DAGs of a file to their end; an asset's consumer after its producer."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(FOLDER / "dags" / f"{block.slug}.py", safe_mode=False)
    assert not bag.import_errors, bag.import_errors
    assert bag.dags, "there is no DAG in it"
    returned: dict[str, Any] = {}
    for dag in bag.dags.values():
        if "Asset" in type(dag.timetable).__name__:
            continue  # what it is given comes from a scheduler; that it parses is what is seen here
        conf = {"model_id": trained_model()} if NEEDS_A_MODEL in dag.params else None
        run = dag.test(run_conf=conf)
        states = {one.task_id: one.state for one in run.get_task_instances()}
        assert run.state == "success", states
        returned |= {one.task_id: one.xcom_pull(task_ids=one.task_id) for one in run.get_task_instances()}
    return returned


def trained_model() -> str:
    """What somebody else has made before the DAG runs."""
    from lucidworks_provider.client.model_specs import TrainingSpec
    from lucidworks_provider.client.models import create_model
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    hook = LucidworksHook()
    try:
        return hook.call(
            create_model(TrainingSpec("text-encoder", "ecommerce-rnn", {"catalog": "gs://b/c"}))
        ).id
    finally:
        hook.close()


def run_snippet(block: Block, names: dict[str, Any]) -> None:
    """Execute it with the names of the snippets before it; a task that stands alone is called."""
    before = set(names)
    exec(compile(placed(block.code), block.id, "exec"), names)  # noqa: S102
    for name in set(names) - before:
        if (function := getattr(names[name], "function", None)) is not None:
            function()


def run_all() -> dict[str, dict[str, Any]]:
    """Every block, page by page; each page finds an emulator as if just started."""
    from lucidworks_provider.client.auth.source import forget_sources
    from lucidworks_provider.emulator import EmulatorSettings, running

    results: dict[str, dict[str, Any]] = {}
    with running(EmulatorSettings(training_seconds=0.1, deploy_seconds=0)) as emulator, hurried():
        os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = emulator.conn_json(share_via="memory")
        for page, blocks in groupby(of(Fate.DAG, Fate.SNIPPET), lambda block: block.page):
            emulator.state.reset()
            forget_sources()
            names: dict[str, Any] = {"__name__": page}
            for block in blocks:
                begin, asked = time.monotonic(), len(emulator.state.log)
                result: dict[str, Any] = {}
                try:
                    if block.fate is Fate.DAG:
                        result["returned"] = run_dags(block)
                    else:
                        run_snippet(block, names)
                except Exception:  # noqa: BLE001
                    result["error"] = traceback.format_exc()
                result["asked"] = sorted({line.endpoint for line in list(emulator.state.log)[asked:]})
                results[block.id] = result | {"seconds": round(time.monotonic() - begin, 2)}
    return results


def run_commands() -> dict[str, tuple[Any, str]]:
    """The commands in this process, which has imported Airflow; each page finds no connection of another one."""
    ran = {}
    for page, blocks in groupby(of(Fate.SHELL), lambda block: block.page):
        for command in (command for block in blocks for command in commands_of(block) if module_of(command)):
            module, words = module_of(command), shlex.split(placed(command), comments=True)
            # Two files, because Airflow closes the one that it exports to.
            code, files = None, [FOLDER / "stdout.txt", FOLDER / "stderr.txt"]
            with (
                files[0].open("w") as out,
                files[1].open("w") as err,
                mock.patch("sys.argv", words[words.index(module) :]),
                redirect_stdout(out),
                redirect_stderr(err),
            ):
                try:
                    runpy.run_module(module, run_name="__main__")
                except SystemExit as end:
                    code = end.code
                except Exception:  # noqa: BLE001
                    code = traceback.format_exc()
            ran[f"{page} {command}"] = (code, "".join(file.read_text() for file in files))
        with closing(sqlite3.connect(FOLDER / "home" / "airflow.db")) as database, database:
            database.execute("DELETE FROM connection")
    return ran


def main() -> None:
    """Entry point."""
    from airflow.utils.db import initdb

    for folder, text in SOURCES.items():
        (PLACES / folder).mkdir(parents=True)
        (PLACES / folder / "tent.txt").write_text(text)
    (FOLDER / "dags").mkdir(exist_ok=True)
    for block in of(Fate.DAG):
        (FOLDER / "dags" / f"{block.slug}.py").write_text(placed(block.code))
    begin = time.monotonic()
    initdb()
    print(f"database: {time.monotonic() - begin:.1f} s")
    with closing(sqlite3.connect(FOLDER / "home" / "airflow.db")) as database:
        database.execute("VACUUM INTO ?", (str(FOLDER / "home" / "empty.db"),))
    results = {"blocks": run_all(), "commands": run_commands()}
    (FOLDER / "results.json").write_text(json.dumps(results, default=str))


if __name__ == "__main__":
    main()
