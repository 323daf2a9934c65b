# SPDX-License-Identifier: Apache-2.0
"""The wheel holds the package with its types and its licence, and nothing else."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import lucidworks_provider

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(lucidworks_provider.__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    if find_spec("hatchling"):
        # No network is needed then.
        command.append("--no-build-isolation")
    done = subprocess.run(
        [*command, str(ROOT)], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def test_name_and_version(wheel: zipfile.ZipFile) -> None:
    version = lucidworks_provider.__version__
    assert Path(wheel.filename or "").name == f"airflow_provider_lucidworks-{version}-py3-none-any.whl"


def test_it_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    files = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = ROOT / "lucidworks_provider"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files == expected
    assert "lucidworks_provider/py.typed" in files


def test_metadata(wheel: zipfile.ZipFile) -> None:
    info = {name.partition(".dist-info/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "licenses/LICENSE" in info
    points = configparser.ConfigParser()
    points.read_string(wheel.read(info["entry_points.txt"]).decode())
    assert points["apache_airflow_provider"]["provider_info"] == (
        "lucidworks_provider.get_provider_info:get_provider_info"
    )
    assert points["console_scripts"]["lucidworks-emulator"] == "lucidworks_provider.emulator.__main__:main"
    assert points["pytest11"]["lucidworks"] == "lucidworks_provider.emulator.pytest_plugin"
    metadata = wheel.read(info["METADATA"]).decode()
    assert "Requires-Dist: apache-airflow>=2.11.0" in metadata
    assert {"Provides-Extra: documents", "Provides-Extra: emulator"} <= set(metadata.splitlines())
