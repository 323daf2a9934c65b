# SPDX-License-Identifier: Apache-2.0
"""What an import costs. What may import what is in `.importlinter`."""

import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lucidworks_provider

PACKAGE = Path(lucidworks_provider.__file__).parent
ROOT = PACKAGE.parent
NAME = PACKAGE.name
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def test_the_pictures_show_the_contracts() -> None:
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    pictures = re.findall(r"```text\n(.*?)```", (ROOT / "docs/architecture.md").read_text(), re.S)
    for name, picture in zip(("layers", "client"), pictures, strict=True):
        layers = contracts[f"importlinter:contract:{name}"]["layers"].split("\n")
        drawn = [re.split(r" {2,}", line)[0] for line in picture.splitlines()]
        assert drawn == [" ".join(line.replace("|", " ").split()) for line in layers if line]


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_what_they_are_for(module: str) -> None:
    lines = (PACKAGE / module).read_text().splitlines()
    assert lines[0] == "# SPDX-License-Identifier: Apache-2.0"
    assert lines[1].startswith('"""'), "no docstring that says what it is for"


def loaded_by(first: str, *thens: str) -> dict[str, set[str]]:
    """The modules that each of ``thens`` loads by itself in a process that has run ``first`` and nothing else."""
    code = f"""
import json, os, sys
{first}
before = set(sys.modules)
for then in {thens!r}:
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0, then
        continue
    status = 1
    try:
        exec(then)
        print(json.dumps([then, sorted(set(sys.modules) - before)]), flush=True)
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(status)
"""
    command, environment = [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines()[-len(thens) :])
    return {then: set(modules) for then, modules in lines}


# What a DAG file imports: rooms that are thin, and of the rest values and errors only.
FACES = sorted(
    path.removesuffix(".py").replace("/", ".")
    for path in MODULES
    if path.startswith(("operators/", "sensors/", "decorators/", "links."))
)
ROOMS_OF_FACES = {"operators", "sensors", "decorators"}
CHEAP = {
    *("client", "client.settings", "client.options", "client.auth", "client.secrets"),
    *("errors", *ROOMS_OF_FACES, *FACES),
}
PARSED_FACES = [face for face in FACES if not face.endswith("__init__")]


@pytest.fixture(scope="module")
def loaded_by_faces() -> dict[str, set[str]]:
    first = (
        "from airflow.providers.common.compat.sdk import BaseOperator, BaseOperatorLink, BaseSensorOperator, "
        "conf, dag, task"
    )
    return loaded_by(first, *(f"import {NAME}.{face}" for face in PARSED_FACES))


@pytest.mark.parametrize("face", PARSED_FACES)
def test_an_operator_costs_a_dag_file_nothing(face: str, loaded_by_faces: dict[str, set[str]]) -> None:
    loaded = loaded_by_faces[f"import {NAME}.{face}"]
    assert f"{NAME}.{face}" in loaded
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {NAME}
    assert foreign == set()
    # Its own part stays small too: no API, no transport, no storage at parse time.
    assert {name for name in loaded if name.startswith(NAME)} <= {NAME, *(f"{NAME}.{part}" for part in CHEAP)}


def test_provider_info_costs_airflow_nothing() -> None:
    then = f"from {NAME}.get_provider_info import get_provider_info; get_provider_info()"
    loaded = loaded_by("pass", then)[then]
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {NAME}
    assert foreign == set()


def test_there_is_no_http_library_until_it_is_used() -> None:
    first = "from airflow.providers.common.compat.sdk import BaseHook; import airflow.triggers.base"
    hook = f"from {NAME}.hooks.lucidworks import LucidworksHook; LucidworksHook()"
    trigger = (
        f"from {NAME}.triggers import LucidworksModelEventTrigger; LucidworksModelEventTrigger(model_id='m')"
    )
    for then, loaded in loaded_by(first, hook, trigger).items():
        roots = {name.partition(".")[0] for name in loaded}
        assert not roots & {"requests", "aiohttp", "pyarrow", "orjson", "cryptography"}, then
        assert f"{NAME}.check" not in loaded
        if then == hook:
            # Its handler of forks has to be registered before a task forks.
            assert f"{NAME}.hooks.task_channel" in loaded


def test_every_run_of_pytest_loads_its_plugin_so_it_is_light() -> None:
    then = f"import {NAME}.emulator.pytest_plugin"
    roots = {name.partition(".")[0] for name in loaded_by("import pytest", then)[then]}
    assert roots - sys.stdlib_module_names == {NAME}
