# SPDX-License-Identifier: Apache-2.0
"""The page about trouble quotes what is printed: each message is in the source, each exception on the page."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest
from page_blocks import DOCS

import lucidworks_provider
from lucidworks_provider import errors

PAGE = (DOCS / "troubleshooting.md").read_text()
# The later sections are about Airflow's own messages.
OURS = PAGE.partition("## Messages and behaviour of Airflow")[0]
HOLE = "\0"


@cache
def printed() -> list[str]:
    """Every text of the source, in one piece, with holes where values are put in."""
    texts: list[str] = []
    for file in Path(lucidworks_provider.__file__).parent.rglob("*.py"):
        tree = ast.parse(file.read_text())
        texts += [text for node in ast.walk(tree) if (text := text_of(node))]
        # The errors about a connection are put together of four parts.
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and getattr(node.func, "id", "") == "_wrong"
                and len(node.args) >= 4
            ):
                name, what, cure = (text_of(one) or HOLE for one in node.args[1:4])
                texts.append(f"Connection {HOLE}: {name} {what}; {cure}.")
    return texts


def text_of(node: ast.AST) -> str:
    """A literal's text; empty for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return re.sub(r"%(\.\d)?[sdrf]", HOLE, text)
        case ast.JoinedStr(values=parts):
            return "".join(text_of(part) or HOLE for part in parts)
    return ""


def quoted() -> list[str]:
    """The messages: inline code in the column of that name."""
    found: list[str] = []
    column = 0
    for line in OURS.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if "message" in cells:
            column = cells.index("message")
        elif len(cells) > 2 and not set(line) <= set("| -"):
            found += re.findall(r"`([^`]+)`", cells[column])
    return found


def parts_of(message: str) -> list[str]:
    """What is constant in it."""
    return [part.strip() for part in re.split(r"…|HTTP \d+:", message) if part.strip(" .:()'")]


@pytest.mark.parametrize("message", quoted())
def test_it_is_printed_so(message: str) -> None:
    parts = parts_of(message)
    if not parts:  # a status, and the service's words
        assert re.fullmatch(r"HTTP \d+: …", message)
        return
    in_order = re.compile(".*".join(re.escape(part) for part in parts), re.S)
    assert any(in_order.search(text) for text in printed()), parts


END = r"[.;:] |[.;:]$"


def invalid_input() -> list[str]:
    """Clauses of the messages in the sections about invalid input, which are quoted with their values."""
    found: list[str] = []
    for page in DOCS.rglob("*.md"):
        section = page.read_text().partition("## Invalid input\n")[2].partition("\n## ")[0]
        for pair in re.findall(r"``(.+?)``|(?<!`)`([^`]+)`(?!`)", section.replace("\\|", "|")):
            found += re.split(END, "".join(pair))
    return found


def test_errors_about_invalid_input_are_printed_so() -> None:
    """A good part of each clause is one of the source's."""
    literals = {part.strip() for text in printed() for part in re.split(rf"{HOLE}|{END}", text)}
    odd, checked = [], 0
    for clause in invalid_input():
        # Without the values.
        words = re.sub(r"'[^']*'|\{.*?\}|\S*\d\S*|\(.*?\)|…", "", clause).strip()
        if len(words.split()) >= 3:
            checked += 1
            longest = max(len(part) for part in literals if part in clause)
            odd += [clause] if longest < 0.3 * len(words) else []
    assert odd == []
    assert checked > 40


def test_the_example_is_an_error_that_a_task_raises() -> None:
    """One of those that a test of common mistakes gets."""
    [example] = re.findall(r"^```text\n(.*)\n```$", PAGE, re.M)
    assert example in (DOCS.parent / "tests/integration/operators/mistakes.txt").read_text()
    for part in re.findall(r"Search for `(\w+)` and `([^`]+)`", PAGE)[0]:
        assert part in example
        assert part in OURS.partition("Search for")[2].partition("|")[2]


def test_it_is_about_messages() -> None:
    assert len(quoted()) > 60
    # A message that the package does not print would be found.
    assert not any("a message that nobody prints" in text for text in printed())


@pytest.mark.parametrize(
    "name",
    [name for name, one in vars(errors).items() if inspect.isclass(one) and issubclass(one, Exception)],
)
def test_every_exception_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in OURS
