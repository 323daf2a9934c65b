# SPDX-License-Identifier: Apache-2.0
"""
The code blocks of the pages, and how the tests run each.

The language of a block decides:

==================  ====================================================================================
``python``          run: a DAG by ``dag.test()``, a test by pytest, a value compared with what a task returned, the
                    rest unchanged, page by page from top to bottom
``console``, ``sh`` each command is run, or checked where running it would install or take minutes
``json`` and so on  parsed
``text``            shown only: an output, a picture, a sketch; the commands of README.md, which a test runs
                    together
none                as ``text``, but as ``sh`` where a line begins with a command, so that none is shown only by
                    accident
==================  ====================================================================================

``python tests/integration/pages/page_blocks.py`` counts them.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import lucidworks_provider

ROOT = Path(lucidworks_provider.__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
]

# Pages with a test of their own that runs all of their blocks.
ELSEWHERE = {
    "docs/check.md": "tests/integration/check/test_check.py, against the emulator",
    "docs/client.md": "tests/integration/packaging/test_packaging_client.py, in a process without Airflow",
    "docs/storage.md": "tests/integration/stores/test_stores_operators.py, on S3",
    "docs/tutorial.md": "dev/tutorial.py, by `make tutorial`",
    "docs/testing.md": "tests/integration/pages/page_runner.py",
}

_BLOCK = re.compile(r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=fence)$", re.M | re.S)

_COMMAND = re.compile(r"^(\$ |airflow|export|make|pip|python|lucidworks-emulator)\b", re.M)


class Fate(StrEnum):
    """What the tests do with a block."""

    DAG = "run as a DAG"
    TEST = "run by pytest"
    VALUE = "compared with what a task returned"
    SNIPPET = "run as Python"
    SHELL = "run or checked as commands"
    PARSED = "parsed"
    SHOWN = "shown only"
    ELSEWHERE = "run by a test of the page's own"
    UNKNOWN = "of a language that nothing here knows"


_FATES = {
    **dict.fromkeys(("console", "sh", "shell", "bash", ""), Fate.SHELL),
    **dict.fromkeys(("json", "yaml", "ini", "toml"), Fate.PARSED),
}


@dataclass(frozen=True, slots=True)
class Block:
    """
    A fenced block.

    :param page: its file, below the repository.
    :param line: of its first line of code.
    """

    page: str
    line: int
    language: str
    code: str

    @property
    def id(self) -> str:
        """For messages and for file names."""
        return f"{self.page}:{self.line}"

    @property
    def slug(self) -> str:
        """A module's name."""
        return re.sub(r"\W+", "_", self.page.removesuffix(".md")).lower() + f"_{self.line}"

    @property
    def fate(self) -> Fate:
        """What is done with it."""
        bare = not self.language and not _COMMAND.search(self.code)
        if bare or self.language == "text" or self.language.startswith("{"):
            return Fate.SHOWN
        if self.page in ELSEWHERE:
            return Fate.ELSEWHERE
        if self.language == "python":
            return self._of_python()
        return _FATES.get(self.language, Fate.UNKNOWN)

    def _of_python(self) -> Fate:
        if "@dag(" in self.code:
            return Fate.DAG
        tree = ast.parse(self.code).body
        if any(isinstance(one, ast.FunctionDef) and one.name.startswith("test_") for one in tree):
            return Fate.TEST
        if (
            len(tree) == 1
            and isinstance(tree[0], ast.Expr)
            and isinstance(tree[0].value, ast.Dict | ast.List)
        ):
            return Fate.VALUE
        return Fate.SNIPPET


def blocks_of(path: Path) -> list[Block]:
    """The blocks of a page, in their order."""
    text, page = path.read_text(), path.relative_to(ROOT).as_posix()
    return [
        Block(page, text.count("\n", 0, found.start("code")) + 1, found["language"].strip(), found["code"])
        for found in _BLOCK.finditer(text)
    ]


BLOCKS = [block for path in PAGES for block in blocks_of(path)]


def of(*fates: Fate) -> list[Block]:
    """All blocks of these kinds."""
    return [block for block in BLOCKS if block.fate in fates]


def commands_of(block: Block) -> list[str]:
    """The commands of a shell block: after ``$``, or all of it; continued lines in one."""
    lines = block.code.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line[2:] for line in lines if line.startswith("$ ")]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def exported(block: Block) -> dict[str, str]:
    """What the ``export`` lines of a block set, as a shell understands them."""
    lines = [command for command in commands_of(block) if command.startswith("export ")]
    done = subprocess.run(
        ["bash", "-c", "\n".join([*lines, "env -0"])], env={}, capture_output=True, text=True, check=True
    )
    pairs = dict(pair.split("=", 1) for pair in done.stdout.split("\0") if pair)
    return {name: value for name, value in pairs.items() if any(f"{name}=" in line for line in lines)}


def tests_of_pages() -> tuple[str, dict[str, str]]:
    """The DAG of testing.md; its tests and those of other pages, by name."""
    dag, its_test, hook_test, unkind = (
        block.code for block in BLOCKS if block.page == "docs/testing.md" and block.language == "python"
    )
    tests = {"catalogue": its_test, "hook": hook_test, "unkind": unkind}
    return dag, tests | {block.slug: block.code for block in of(Fate.TEST)}


def module_of(command: str) -> str | None:
    """The module that a command runs, if it is Airflow's or one of ``python -m``."""
    match command.split():
        case ["airflow" as module, *_] | ["python", "-m", module, *_]:
            return module
    return None


def outputs_of(block: Block) -> dict[str, list[str]]:
    """What a ``console`` block shows below each of its commands."""
    found: dict[str, list[str]] = {}
    shown: list[str] = []
    for line in block.code.replace("\\\n", " ").splitlines():
        if line.startswith("$ "):
            shown = found.setdefault(line[2:], [])
        else:
            shown.append(line)
    return found if block.language == "console" else {}


if __name__ == "__main__":
    counted = Counter(block.fate for block in BLOCKS)
    for fate in Fate:
        print(f"{counted[fate]:>4}  {fate}")
    print(f"{len(BLOCKS):>4}  blocks on {len(PAGES)} pages")
