# SPDX-License-Identifier: Apache-2.0
"""
What is released: the wheel is the package with its types and its licence, the sdist has pages and examples as well.

Whether it works where it is installed is for ``tests/system/released``, which takes minutes.
"""

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import lucidworks_provider
from lucidworks_provider.get_provider_info import get_provider_info

ROOT = Path(lucidworks_provider.__file__).parents[1]
NAME = f"airflow_provider_lucidworks-{lucidworks_provider.__version__}"
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
FOLDERS = ("lucidworks_provider", "deploy", "docs", "example_dags")
BESIDE = (
    *(".gitignore", "CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "LICENSE", "README.md"),
    *("SECURITY.md", "pyproject.toml"),
)
EPOCH = 1_700_000_000
ADDRESSES = {"documentation", "source", "changelog", "issues"}


def build(source: Path, into: Path) -> Path:
    """The sdist, and the wheel made of it; no network is needed."""
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(into), str(source)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return into


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(built / f"{NAME}-py3-none-any.whl") as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def sdist(built: Path) -> dict[str, bytes]:
    with tarfile.open(built / f"{NAME}.tar.gz") as archive:
        found = {one.name: archive.extractfile(one) for one in archive if one.isfile()}
        return {name.removeprefix(f"{NAME}/"): file.read() for name, file in found.items() if file}


@pytest.fixture(scope="module")
def metadata(wheel: dict[str, bytes]) -> Message:
    return message_from_string(wheel[f"{NAME}.dist-info/METADATA"].decode())


def files_below(*folders: str) -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "_build"} & set(path.parts)
    }


def test_names_and_version(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == {f"{NAME}-py3-none-any.whl", f"{NAME}.tar.gz"}


def test_an_index_would_take_them(built: Path) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_nothing_else(wheel: dict[str, bytes]) -> None:
    files = {name for name in wheel if ".dist-info/" not in name}
    assert files == files_below("lucidworks_provider")
    assert "lucidworks_provider/py.typed" in files


def test_the_sdist_has_pages_and_examples_as_well(sdist: dict[str, bytes]) -> None:
    whole = files_below(*FOLDERS)
    assert set(sdist) == {*whole, *BESIDE, "PKG-INFO"}
    for name in {*whole, *BESIDE}:
        assert sdist[name] == (ROOT / name).read_bytes(), name


def test_no_test_is_released(wheel: dict[str, bytes], sdist: dict[str, bytes]) -> None:
    for name in (*wheel, *sdist):
        *folders, file = name.split("/")
        assert "tests" not in folders
        assert not file.startswith(("test_", "conftest"))


def test_each_module_names_its_licence(sdist: dict[str, bytes]) -> None:
    modules = {name: text for name, text in sdist.items() if name.endswith(".py")}
    assert len(modules) > 100
    assert [
        name for name, text in modules.items() if b"SPDX-License-Identifier: Apache-2.0" not in text[:80]
    ] == []


def test_the_licence_comes_along(wheel: dict[str, bytes], metadata: Message) -> None:
    assert wheel[f"{NAME}.dist-info/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")


def test_entry_points(wheel: dict[str, bytes]) -> None:
    points = configparser.ConfigParser()
    points.read_string(wheel[f"{NAME}.dist-info/entry_points.txt"].decode())
    assert {name: dict(points[name]) for name in points.sections()} == {
        "apache_airflow_provider": {
            "provider_info": "lucidworks_provider.get_provider_info:get_provider_info"
        },
        "console_scripts": {"lucidworks-emulator": "lucidworks_provider.emulator.__main__:main"},
        "pytest11": {"lucidworks": "lucidworks_provider.emulator.pytest_plugin"},
    }


def test_metadata(metadata: Message) -> None:
    assert "apache-airflow>=2.11.0" in metadata.get_all("Requires-Dist", [])
    assert metadata["Requires-Python"] == ">=3.11"
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS
    assert {"Framework :: Apache Airflow :: Provider", "Typing :: Typed"} <= set(
        metadata.get_all("Classifier", [])
    )


def test_addresses_are_all_there_or_none(metadata: Message) -> None:
    urls = dict(value.split(", ", 1) for value in metadata.get_all("Project-URL", []))
    ours = {label.lower(): url for label, url in urls.items() if label.lower() in ADDRESSES}
    assert set(ours) in ({*()}, ADDRESSES)
    # What is the vendor's is not said to be the project's.
    assert not [url for url in ours.values() if "lucidworks.com" in url or not url.startswith("https://")]


def test_the_logo_is_in_the_sdist(sdist: dict[str, bytes]) -> None:
    [integration] = get_provider_info()["integrations"]
    assert integration["logo"].startswith("/docs/integration-logos/")
    assert sdist[integration["logo"].removeprefix("/")].startswith(b"<svg ")


def test_two_builds_are_the_same_to_the_byte(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("_build", "__pycache__"))
    for name in BESIDE:
        shutil.copy(ROOT / name, copy)
    # Neither the times of files nor their modes are part of a release.
    for path in copy.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    again = build(copy, tmp_path / "dist")
    assert digests(again) == digests(built)
    with tarfile.open(again / f"{NAME}.tar.gz") as archive:
        assert {one.mtime for one in archive} == {EPOCH}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
