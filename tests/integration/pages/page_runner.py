# SPDX-License-Identifier: Apache-2.0
"""
Runs the Python blocks of the pages in a process of its own, which has an Airflow home and an emulator.

``python page_runner.py FOLDER``: the DAG files are in ``FOLDER/dags``. ``FOLDER/results.json`` has the result of each
block, by its id: the error if there was one, and what the tasks of a DAG returned; of each command that starts Python
its exit code and its output, and the same of the pages' tests. All is in one process, because the first task of
``dag.test()`` builds Airflow's API, which takes ten seconds.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import sqlite3
import sys
import time
import traceback
from contextlib import closing, redirect_stderr, redirect_stdout
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from page_blocks import BLOCKS, Block, Fate, commands_of, exported, module_of, of, tests_of_pages

from dev.airflow_stack import new_database
from dev.processes import ManagedProcess, hurried

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FOLDER = Path(sys.argv[1])
PLACES = FOLDER / "places"
# Its commands make the documents.
README = FOLDER / "readme"
TENT = "Two people fit. It takes three minutes to pitch."
SOURCES = {
    **dict.fromkeys(("bucket/catalogue", "catalogue/texts", "documents"), TENT),
    # Of a page that says that its text is not in Airflow's database.
    "bucket/invoices": "Invoice 4711 is unpaid.",
}
# Tasks that wait for what nothing on the page has made: the id of a model.
NEEDS_A_MODEL = "model_id"


def placed(block: Block, places: Path = PLACES) -> str:
    """Its code with places of this run in place of those of the page: a bucket, and /tmp/lucidworks."""
    code = re.sub(r"s3://aws_default@(?=\w)", f"{places.as_uri()}/", block.code)
    return code.replace("/tmp/lucidworks", str(places))  # noqa: S108


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
    """A model that exists before the DAG runs."""
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
    """Execute it with the names of the snippets before it, and call a task outside a DAG."""
    before = set(names)
    exec(compile(placed(block), block.id, "exec"), names)  # noqa: S102
    for name in set(names) - before:
        if (function := getattr(names[name], "function", None)) is not None:
            function()


def run_all() -> dict[str, dict[str, Any]]:
    """Every block, page by page; each page finds an emulator as if just started."""
    from lucidworks_provider.client.auth.source import forget_sources
    from lucidworks_provider.emulator import EmulatorSettings, running

    results: dict[str, dict[str, Any]] = {}
    with running(EmulatorSettings(training_seconds=0.1, deploy_seconds=0)) as emulator:
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


def run_readme() -> tuple[Any, str]:
    """Its commands, as one shell runs them: the last one has the connection that the emulator prints."""
    dag, commands = (block for block in BLOCKS if block.page == "README.md" and "nightly" in block.code)
    write_dags({"nightly": placed(dag, README)})
    before, after = placed(commands, README).split("lucidworks-emulator &")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = ["bash", "-ec", f"{before}\nexec lucidworks-emulator --port 0"]
    with ManagedProcess(script, os.environ | {"PATH": path}, FOLDER / "emulator.log") as emulator:
        line = emulator.wait_for("^export .*$", 20)[0]
        with mock.patch.dict(os.environ, exported(replace(commands, language="sh", code=line))):
            [command] = commands_of(replace(commands, code=after.partition("\n")[2]))
            return run_command(command)


def run_tests() -> tuple[Any, str]:
    """Those of testing.md, with their DAG; those of other pages beside them."""
    dag, tests = tests_of_pages()
    write_dags({"catalogue": dag})
    (FOLDER / "tests").mkdir()
    for name, code in tests.items():
        (FOLDER / "tests" / f"test_{name}.py").write_text(code)
    # No server answers at this proxy: the fixture's requests bypass it. The connection is the fixture's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_CONN_")}
    with (
        mock.patch.dict(os.environ, environment | {"HTTP_PROXY": "http://127.0.0.1:9"}, clear=True),
        mock.patch.object(sys, "path", [str(FOLDER / "dags"), *sys.path]),
    ):
        return printed(lambda: pytest.main(["-v", "-p", "no:cacheprovider", str(FOLDER / "tests")]))


def write_dags(files: Mapping[str, str]) -> None:
    """Write all of the DAG folder: pages have DAGs of the same name."""
    shutil.rmtree(FOLDER / "dags", ignore_errors=True)
    (FOLDER / "dags").mkdir()
    for name, code in files.items():
        (FOLDER / "dags" / f"{name}.py").write_text(code)


def printed(run: Callable[[], Any]) -> tuple[Any, str]:
    """What a function returns, or the error or code that it ends with; and what it prints."""
    # Two files, because Airflow closes the one that it exports to.
    files = [FOLDER / "stdout.txt", FOLDER / "stderr.txt"]
    with (
        files[0].open("w") as out,
        files[1].open("w") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            code = run()
        except SystemExit as end:
            code = end.code
        except Exception:  # noqa: BLE001
            code = traceback.format_exc()
    return code, "".join(file.read_text() for file in files)


def run_command(command: str) -> tuple[Any, str]:
    """A command of Airflow, or of ``python -m``, in this process."""
    module, words = module_of(command), shlex.split(command, comments=True)

    def run() -> None:
        runpy.run_module(str(module), run_name="__main__")

    with mock.patch("sys.argv", words[words.index(str(module)) :]):
        return printed(run)


def run_commands() -> dict[str, tuple[Any, str]]:
    """The commands of pages; each page finds no connection of another one."""
    ran = {}
    for page, blocks in groupby(of(Fate.SHELL), lambda block: block.page):
        for block in blocks:
            lines = zip(commands_of(block), commands_of(replace(block, code=placed(block))), strict=True)
            ran |= {f"{page} {line}": run_command(command) for line, command in lines if module_of(line)}
        with closing(sqlite3.connect(FOLDER / "home" / "airflow.db")) as database, database:
            database.execute("DELETE FROM connection")
    return ran


def main() -> None:
    """Entry point."""
    from airflow.utils.db import initdb

    for folder, text in SOURCES.items():
        (PLACES / folder).mkdir(parents=True)
        (PLACES / folder / "tent.txt").write_text(text)
    write_dags({block.slug: placed(block) for block in of(Fate.DAG)})
    new_database(FOLDER / "home" / "airflow.db", Path(sys.executable), initdb)
    with hurried():
        # The blocks first: Airflow logs to the standard output that it finds, and commands have one each.
        results = {
            "blocks": run_all(),
            "tests": run_tests(),
            "readme": run_readme(),
            "commands": run_commands(),
        }
    (FOLDER / "results.json").write_text(json.dumps(results, default=str))


if __name__ == "__main__":
    main()
