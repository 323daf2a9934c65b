# SPDX-License-Identifier: Apache-2.0
"""CONTRIBUTING.md and what goes with it: its example works, its commands and paths exist."""

import re
import shlex
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

import lucidworks_provider

ROOT = Path(lucidworks_provider.__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
STEP = re.compile(
    r"^(?:In `(?P<into>[^`]+)`, after the line `(?P<line>[^`]+)`"
    r"|At the end of `(?P<end>[^`]+)`|The new file `(?P<new>[^`]+)`):\n\n```python\n(?P<code>.*?)^```",
    re.M | re.S,
)


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of the repository after the steps of the example, and the files that they name."""
    copy = tmp_path_factory.mktemp("contributing") / "clone"
    for name in ("lucidworks_provider", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    touched = []
    for step in STEP.finditer(PAGE):
        [path] = filter(None, step.group("into", "end", "new"))
        file, code = copy / path, step["code"]
        if step["into"]:
            text = file.read_text()
            assert text.count(f"{step['line']}\n") == 1, step["line"]
            file.write_text(text.replace(f"{step['line']}\n", f"{step['line']}\n{code}"))
        elif step["end"]:
            file.write_text(f"{file.read_text()}\n\n{code}")
        else:
            assert not file.exists()
            file.write_text(code)
        touched.append(path)
    return copy, touched


def test_the_example_has_its_steps(changed: tuple[Path, list[str]]) -> None:
    assert len(changed[1]) == PAGE.count("```python") == 3


def output_of(words: list[str], folder: Path, status: int = 0) -> str:
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def test_the_tests_of_the_example_pass(changed: tuple[Path, list[str]]) -> None:
    [command] = re.findall(r"^\$ (\.venv/bin/python .*)$", PAGE, re.M)
    words = [sys.executable, *shlex.split(command)[1:], "-q", "-p", "no:cacheprovider"]
    assert " passed" in output_of(words, changed[0])


def test_the_tests_of_the_example_fail_without_its_change(changed: tuple[Path, list[str]]) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT), str(changed[0] / changed[1][-1])]
    output_of([sys.executable, "-m", "pytest", *options], ROOT, status=1)


def test_ruff_has_nothing_against_the_example(changed: tuple[Path, list[str]]) -> None:
    for command in (["check"], ["format", "--check"]):
        output_of([sys.executable, "-m", "ruff", *command, "--no-cache", *changed[1]], changed[0])


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md", ".pre-commit-config.yaml"]
)
def test_each_target_exists(name: str) -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / name).read_text()))
    assert named
    assert named <= TARGETS


def test_each_path_exists() -> None:
    named = set(re.findall(r"`([\w.-]*/[\w./-]+|[\w.-]+\.(?:md|toml))`", PAGE))
    made = {"dist/", "tests/unit/test_unit_translation.py", "NNNN-the-choice-in-a-few-words.md"}
    missing = {
        one
        for one in named
        if not (ROOT / one).exists() and not (ROOT / "lucidworks_provider" / one).exists()
    }
    assert missing <= made
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", PAGE + (ROOT / "CODE_OF_CONDUCT.md").read_text())
    assert [one for one in links if not (ROOT / one).exists()] == []


def test_hooks_of_pre_commit_are_local_and_need_no_files() -> None:
    [repo] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repo["repo"] == "local"
    assert {(one["language"], one["pass_filenames"]) for one in repo["hooks"]} == {("system", False)}
    assert all({"id", "name", "entry"} <= set(one) for one in repo["hooks"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_issue_templates(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"]
    assert form["description"]
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert len(ids) == len(set(ids)) > 0
    for part in form["body"]:
        assert part["type"] in {"markdown", "textarea", "input", "dropdown", "checkboxes"}
        assert part["attributes"].get("value") or part["attributes"].get("label")
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_the_changelog_begins_with_this_version_and_a_date_or_what_is_unreleased() -> None:
    heading = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    if heading != "Unreleased":
        version, day = re.fullmatch(r"(\S+) \((\d{4}-\d\d-\d\d)\)", heading).groups()  # type: ignore[union-attr]
        assert version == lucidworks_provider.__version__
        date.fromisoformat(day)
