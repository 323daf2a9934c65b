# SPDX-License-Identifier: Apache-2.0
"""
The arrows between the rooms of the package, read off the imports, and what an import costs.

Nested imports count as well: they say what a room needs, not when.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import lucidworks_provider

PACKAGE = Path(lucidworks_provider.__file__).parent
ROOT = PACKAGE.parent
NAME = PACKAGE.name
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
HEAVY = {"airflow", "requests", "aiohttp", "urllib3", "httpx", "pyarrow", "starlette", "uvicorn"}
# Rooms without I/O: values test them.
PURE = [
    *(module for module in MODULES if module.startswith("client/api/")),
    *(
        "client/auth/protocol.py",
        "client/auth/token.py",
        "jobs/watch.py",
        "jobs/record.py",
        "jobs/outcome.py",
    ),
    *("errors.py", "client/settings.py", "get_provider_info.py"),
]
# For fast decoding, and not needed: see `parse_object`.
OPTIONAL = {("client/api/messages.py", "orjson")}


@cache
def imports(module: str) -> frozenset[str]:
    """Every module that a file imports, at whatever depth; those for type checkers only are left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for other in node.orelse:
                visit(other)
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            found.add(node.module or "")
            # `from package import module` is an import of the module.
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse((PACKAGE / module).read_text()))
    return frozenset(found)


def test_the_reader_of_imports_sees_them() -> None:
    assert "requests" in imports("client/http/sync.py")
    assert "airflow.providers.common.compat.sdk" in imports("hooks/stores/variables.py")  # nested
    assert f"{NAME}.auth.source" not in imports("client/http/session.py")  # for type checkers


@pytest.mark.parametrize("module", PURE)
def test_pure_rooms(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(module)}
    assert not roots & HEAVY
    foreign = roots - sys.stdlib_module_names - {NAME, "__future__"}
    assert {(module, root) for root in foreign} <= OPTIONAL


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("client/api/")])
def test_the_api_knows_itself_and_the_errors_only(module: str) -> None:
    own = {name for name in imports(module) if name.startswith(f"{NAME}.")}
    assert {name for name in own if not name.startswith((f"{NAME}.api", f"{NAME}.errors"))} == set()


@pytest.mark.parametrize("module", MODULES)
def test_client_and_emulator_share_nothing(module: str) -> None:
    own = {name for name in imports(module) if name.startswith(NAME)}
    if module.startswith("emulator/"):
        assert {name for name in own if not name.startswith(f"{NAME}.emulator")} == set()
    else:
        assert {name for name in own if name.startswith(f"{NAME}.emulator")} == set()


@pytest.mark.parametrize("module", [m for m in MODULES if not m.startswith(("client/http/", "emulator/"))])
def test_only_the_transport_opens_sockets(module: str) -> None:
    roots = {name.partition(".")[0] for name in imports(module)}
    assert not roots & {"requests", "aiohttp", "urllib3", "httpx", "http"}


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
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines()[-len(thens) :])
    return {then: set(modules) for then, modules in lines}


# What a DAG file imports: rooms that are thin, and of the rest values and errors only.
FACES = sorted(
    path.removesuffix(".py").replace("/", ".")
    for path in MODULES
    if path.startswith(("operators/", "sensors/", "decorators/", "links/"))
)
ROOMS_OF_FACES = {"operators", "sensors", "decorators", "links"}
CHEAP = {"connection", "errors", "auth", "auth.redaction", "api", "api.secrets", *ROOMS_OF_FACES, *FACES}


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


def test_a_hook_costs_no_http_library_until_it_is_used() -> None:
    first = "from airflow.providers.common.compat.sdk import BaseHook"
    then = f"from {NAME}.hooks.lucidworks import LucidworksHook; LucidworksHook()"
    roots = {name.partition(".")[0] for name in loaded_by(first, then)[then]}
    assert not roots & {"requests", "aiohttp", "pyarrow", "orjson", "cryptography"}
