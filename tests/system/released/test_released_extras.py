# SPDX-License-Identifier: Apache-2.0
"""
What is released, installed with each extra alone: what the extra promises works, and nothing else was brought along.

Airflow is installed once. Each environment sees that installation, and has the wheel and its extra by itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import lucidworks_provider

HERE = Path(__file__).parent
ROOT = Path(lucidworks_provider.__file__).parents[1]
EXTRAS = sorted(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
# What its users have anyway.
BESIDE = {"emulator": ["pytest"]}
_HIDDEN = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE"}

pytestmark = pytest.mark.dist


def run(*command: object, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _HIDDEN}
    environment["AIRFLOW_HOME"] = str(cwd / "airflow")
    done = subprocess.run(
        [str(one) for one in command], capture_output=True, text=True, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def environment(folder: Path) -> Path:
    """An empty one; pip works on it from outside."""
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def pip(python: Path, *arguments: object, cwd: Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", "--python", python, *quiet, *arguments, cwd=cwd)


def install(python: Path, *what: object, cwd: Path) -> None:
    """Modules are compiled when they are first imported, those of Airflow once for all environments."""
    pip(python, "install", "--no-compile", "--constraint", ROOT / "constraints.txt", *what, cwd=cwd)


def packages_of(python: Path) -> Path:
    return Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=python.parent).strip()
    )


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return {"wheel": next(folder.glob("*.whl")), "sdist": next(folder.glob("*.tar.gz"))}


@pytest.fixture(scope="session")
def airflow(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the packages that the wheel needs without any extra; the wheel itself is not among them."""
    folder = tmp_path_factory.mktemp("airflow")
    python = environment(folder / "venv")
    install(python, built["wheel"], cwd=folder)
    pip(python, "uninstall", "--yes", "airflow-provider-lucidworks", cwd=folder)
    return packages_of(python)


def installed(what: str, folder: Path, airflow: Path, *beside: str) -> Path:
    python = environment(folder / "venv")
    (packages_of(python) / "airflow.pth").write_text(f"{airflow}\n")
    install(python, what, *beside, cwd=folder)
    found = run(python, "-P", "-c", "import lucidworks_provider as it; print(it.__file__)", cwd=folder)
    assert Path(found.strip()).is_relative_to(folder)
    return python


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_without_any_extra(kind: str, built: dict[str, Path], airflow: Path, tmp_path: Path) -> None:
    python = installed(str(built[kind]), tmp_path, airflow)
    run(python, "-P", HERE / "works_alone.py", cwd=tmp_path)


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_alone(extra: str, built: dict[str, Path], airflow: Path, tmp_path: Path) -> None:
    promise = HERE / f"works_with_{extra}.py"
    assert promise.is_file(), f"say in {promise.name} what the extra promises"
    python = installed(f"{built['wheel']}[{extra}]", tmp_path, airflow, *BESIDE.get(extra, ()))
    run(python, "-P", promise, cwd=tmp_path)
