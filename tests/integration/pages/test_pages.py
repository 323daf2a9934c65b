# SPDX-License-Identifier: Apache-2.0
"""Every code block of every page does what the page says. What is done with which: ``page_blocks.py``."""

from __future__ import annotations

import ast
import configparser
import inspect
import json
import re
import shlex
import sqlite3
import subprocess
import sys
import tomllib
from contextlib import closing
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import page_blocks
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version
from page_blocks import BLOCKS, ELSEWHERE, ROOT, Block, Fate, commands_of, exported, module_of, of, outputs_of

from dev.processes import ManagedProcess, clean_environment
from lucidworks_provider.corpus import open_dataset
from lucidworks_provider.get_provider_info import get_provider_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from lucidworks_provider.client.settings import LucidworksSettings

HERE = Path(__file__).parent
# A value that a page shows, and the task of the DAG before it that returns such a one.
RETURNED_BY = {"docs/corpora.md": "chunk", "docs/operators/prediction.md": "classify"}

INFO = get_provider_info()
OPERATORS = [
    *(f"@task.{one['name']}" for one in INFO["task-decorators"]),
    *(
        name
        for kind in ("operators", "sensors")
        for entry in INFO[kind]
        for module in entry["python-modules"]
        for name, one in vars(import_module(module)).items()
        if inspect.isclass(one) and one.__module__ == module and not name.startswith("_")
    ),
]

by_id = {"ids": lambda block: block.id}


class Ran:
    """What the runner has left: a folder with an Airflow home, and what became of each block."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The connections that the pages export are there for their DAGs.
        self.env = {
            **clean_environment(),
            **{
                name: value
                for block in of(Fate.SHELL)
                for name, value in exported(block).items()
                if name.startswith("AIRFLOW_CONN_")
            },
            "AIRFLOW_HOME": str(folder / "home"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # The shortest deferral: `dag.test()` has no heartbeat.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "0",
            "NO_PROXY": "127.0.0.1",
        }
        done = subprocess.run(
            [sys.executable, str(HERE / "page_runner.py"), str(folder)],
            cwd=folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        results = json.loads((folder / "results.json").read_text())
        self.blocks: dict[str, Any] = results["blocks"]
        self.commands: dict[str, tuple[Any, str]] = results["commands"]
        self.tests: tuple[Any, str] = results["tests"]
        self.readme: tuple[Any, str] = results["readme"]


@pytest.fixture(scope="session")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    if Version(version("apache-airflow")) < Version("3.3"):
        pytest.skip("some pages are about what Airflow has from 3.3 on")
    return Ran(tmp_path_factory.mktemp("pages"))


def test_there_are_blocks_and_each_is_of_a_known_language() -> None:
    assert [block.id for block in of(Fate.UNKNOWN)] == [], page_blocks.__doc__
    assert {Fate.DAG, Fate.SNIPPET, Fate.SHELL, Fate.SHOWN} <= {block.fate for block in BLOCKS}


@pytest.mark.parametrize("page", ELSEWHERE)
def test_a_page_that_is_run_elsewhere_is_named_there(page: str) -> None:
    script = ROOT / ELSEWHERE[page].split(",")[0]
    assert Path(page).name in script.read_text()


@pytest.mark.parametrize("block", of(Fate.DAG, Fate.SNIPPET), **by_id)
def test_it_runs(block: Block, ran: Ran) -> None:
    hint = "What cannot be run, a sketch, has the language `text`."
    assert "error" not in ran.blocks[block.id], f"{ran.blocks[block.id]['error']}\n{hint}"


@pytest.mark.parametrize("name", OPERATORS)
def test_each_operator_is_in_an_example_that_runs(name: str) -> None:
    used = re.compile(rf"{re.escape(name)}(\.partial)?\($", re.M)
    assert [block.id for block in of(Fate.DAG) if used.search(block.code)]


def test_the_examples_of_the_hook_ask_all_of_the_api(ran: Ran) -> None:
    asked = {
        name for block_id, one in ran.blocks.items() if "docs/hook.md" in block_id for name in one["asked"]
    }
    assert {"predict", "submit-prediction", "poll-prediction", "submit", "poll", "tokenize"} <= asked
    assert {"preview-prompt", "usecases", "create-model", "get-model", "deploy", "undeploy"} <= asked


@pytest.mark.parametrize("block", of(Fate.VALUE), **by_id)
def test_a_task_returns_what_is_shown(block: Block, ran: Ran) -> None:
    task = RETURNED_BY[block.page]
    [returned] = [
        one["returned"][task]
        for one_id, one in ran.blocks.items()
        if one_id.startswith(f"{block.page}:") and task in one.get("returned", {})
    ]
    shown = ast.literal_eval(block.code)
    if isinstance(shown, dict):  # counts of a catalogue that is no such small one
        assert set(returned) == set(shown)
        assert {name: type(value) for name, value in returned.items()} == {
            name: type(value) for name, value in shown.items()
        }
    else:
        assert returned == shown


def test_tests_pass(ran: Ran) -> None:
    code, output = ran.tests
    assert code == 0, output[-4000:]
    tests = "".join(page_blocks.tests_of_pages()[1].values())
    assert len(re.findall(r"^\S+::\S+ PASSED", output, re.M)) == tests.count("def test_") > 4, output


def tables(database: sqlite3.Connection) -> list[str]:
    return [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]


TEXTS = ("Two people fit", "A roof for two", "My parcel has not arrived")


def test_what_the_page_about_security_says_of_the_database(ran: Ran) -> None:
    with closing(sqlite3.connect(ran.folder / "home" / "airflow.db")) as database:

        def all_of(table: str) -> str:
            return str(database.execute(f"SELECT * FROM {table}").fetchall())  # noqa: S608

        # Texts are only where Airflow keeps arguments and return values.
        for text in TEXTS:
            assert text in all_of("rendered_task_instance_fields") + all_of("xcom")
            assert text not in all_of("trigger") + all_of("task_state_store") + all_of("variable")
        # The first example of the page: its text is in the result, and neither text nor key is in a table.
        [result] = (ran.folder / "places" / "bucket").glob("*/summaries.jsonl")
        assert "Invoice 4711" in result.read_text()
        for secret in ("Invoice 4711", "sk-…"):
            assert [table for table in tables(database) if secret in all_of(table)] == []
        kept = [json.loads(row[0]) for row in database.execute("SELECT kwargs FROM trigger")]
    named = {name for one in kept for name in one}
    jobs = {"kind", "lucidworks_conn_id", "folder", "nonce", "poll_interval", "deadline"}
    assert named <= jobs | {"resource_id", "target"}
    assert {"folder", "resource_id"} <= named
    assert b"demo-secret" not in (ran.folder / "home" / "airflow.db").read_bytes()


PARSERS: dict[str, Callable[[str], object]] = {
    "json": json.loads,
    "yaml": yaml.safe_load,
    "toml": tomllib.loads,
    "ini": lambda text: configparser.ConfigParser(interpolation=None).read_string(text),
}


@pytest.mark.parametrize("block", of(Fate.PARSED), **by_id)
def test_it_can_be_parsed(block: Block) -> None:
    PARSERS[block.language](block.code)


COMMANDS = [
    pytest.param(block, command, id=f"{block.id}-{command[:40]}")
    for block in of(Fate.SHELL)
    for command in commands_of(block)
]


@pytest.mark.parametrize(("block", "command"), COMMANDS)
def test_a_command(block: Block, command: str, ran: Ran) -> None:
    words = shlex.split(command, comments=True)
    match words:
        case ["pip", "install", *wanted]:
            installable(wanted)
        case ["make", target]:
            assert re.search(rf"^{target}:.*##", (ROOT / "Makefile").read_text(), re.M)
        case ["export", *_]:
            for name, value in exported(block).items():
                if name.startswith("AIRFLOW_CONN_"):
                    connects(name, value)
        case ["lucidworks-emulator", *options]:
            serves(options, outputs_of(block).get(command, []), ran)
        case _ if module_of(command):
            code, output = ran.commands[f"{block.page} {command}"]
            assert not code, f"{code}\n{output[-4000:]}"
            for line in outputs_of(block).get(command, []):
                assert shown_in(line, output), output[-4000:]
        case _:
            pytest.fail(
                f"Nothing here knows how to run or check {command!r}; teach it, or mark the block `text`."
            )


def test_the_commands_of_the_readme(ran: Ran) -> None:
    """What ``echo`` has written is what the DAG has chunked."""
    code, output = ran.readme
    assert not code, f"{code}\n{output[-4000:]}"
    folder = ran.folder / "readme"
    chunks = open_dataset((folder / "chunks").as_uri()).to_table(columns=["document_id", "text"]).to_pylist()
    assert {row["document_id"] for row in chunks} == {"alpine.txt"}
    assert " ".join(row["text"] for row in chunks) in (folder / "documents" / "alpine.txt").read_text()


def installable(wanted: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    # From a clone the project is a folder.
    names = [re.sub(r"^\.(?=\[|$)", project["name"], word) for word in wanted if not word.startswith("-")]
    for one in map(Requirement, names):
        if one.name == project["name"]:
            assert one.extras <= set(project["optional-dependencies"])


def connects(name: str, value: str) -> LucidworksSettings | None:
    from airflow.providers.common.compat.sdk import Connection

    from lucidworks_provider.client.settings import parse_settings

    conn_id = name.removeprefix("AIRFLOW_CONN_").lower()
    conn = Connection.from_json(value) if value.startswith("{") else Connection.from_uri(value, conn_id)
    assert conn.conn_type
    if conn.conn_type == "lucidworks":
        return parse_settings(
            conn_id, login=conn.login, password=conn.password, host=conn.host, extra=conn.extra_dejson
        )
    return None


def test_all_ways_to_make_a_connection_make_the_same_one() -> None:
    """That the command stores what is exported below it, and so its secret, is what ``test_a_command`` sees."""
    blocks = [block for block in of(Fate.SHELL) if block.page == "docs/connection.md"]
    commands = [command for block in blocks for command in commands_of(block)]
    [added] = [shlex.split(one) for one in commands if one.startswith("airflow connections add")]
    [[exported_line]] = [
        lines for block in blocks for one, lines in outputs_of(block).items() if " export " in one
    ]
    seen = [connects(name, value) for block in blocks for name, value in exported(block).items()]
    seen.append(connects("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", exported_line.partition("=")[2]))
    assert len(seen) == 3
    words = dict(pairwise(added))
    assert words["--conn-password"] == "s3cr/et@%+:x"
    for one in seen:
        assert one is not None
        assert one.client_secret == words["--conn-password"]
        assert one.client_id == words["--conn-login"]
        assert one.customer_id == json.loads(words["--conn-extra"])["customer_id"]
        # Airflow reads the host of a URI in lower case.
        assert (
            one.application_base.lower()
            == f"https://{words['--conn-host']}.applications.lucidworks.com".lower()
        )


def serves(options: list[str], shown: list[str], ran: Ran) -> None:
    options = [
        "0" if before == "--port" else word for before, word in zip(["", *options], options, strict=False)
    ]
    command = [sys.executable, "-m", "lucidworks_provider.emulator", *options]
    with ManagedProcess(command, ran.env, ran.folder / "emulator.log") as emulator:
        emulator.wait_for("^export ", 20)
        for line in shown:
            assert shown_in(line, emulator.output()), emulator.output()


def shown_in(line: str, output: str) -> bool:
    """Whether a line of a page is in an output; ``…`` is anything, and ports differ."""
    pattern = re.escape(line.rstrip()).replace("…", ".*").replace("8765", r"\d+")
    return re.search(f"^{pattern}", output, re.M) is not None
