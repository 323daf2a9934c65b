# SPDX-License-Identifier: Apache-2.0
"""Prose: banned phrases are found in text, and nowhere else."""

from pathlib import Path

import pytest

from dev import prose

# Sentences of earlier pages, each with what is wrong in it.
WRONG = (
    ("found again after a crash, and its result is on storage before anybody is told", "anybody"),
    ("cuts this one off, and the other way round", "cuts this one off"),
    ("passages for what is searched, queries for what one searches with", "what one searches"),
    ("Whoever waits for the file", "Whoever"),
    ("brings a dataset up to a corpus of any size", "brings a dataset up to"),
    ("Who reads it alone sees the same whenever no run is under way", "Who"),
    ("deletes the old one, under the hands of its users", "under the hands"),
    ("a quiet minute ends the story", "quiet minute"),
    ("It has stood still while it settled", "stood"),
    ("what is not there looks like what cannot be read", "what is not there"),
    ("a task does not fail for a button", "fail for a button"),
    ("Nobody can have put into a body what is drawn after it came", "Nobody"),
    ("Know better what becomes of a document", "Know better"),
    ("Let the next one in", "Let the next one in"),
    ("share the one live access", "the one live"),
    ("without cutting the others off", "cutting the others off"),
    ("the service hands out a token", "hands out"),
    ("a review looks at it", "looks at"),
    ("Lucidworks has it; no screen shows it", "no screen"),
    ("the emulator's log is the judge", "judge"),
    ("processes had learnt it", "learnt"),
    ("found and mended", "mended"),
    ("half a second was wanted", "was wanted"),
    ("the decoder has its say", "has its say"),
    ("what a token is worth", "is worth"),
    ("beside what people use", "what people"),
)
RIGHT = (
    "A run brings the tables up to date. A tent stands up to winds. Each process learns its share of the limit.",
    "It looks like a key. One worker needs what one of the tasks has returned. The lower limit cuts the rate.",
    "The request fails for a missing permission. Users get what they want. It lets a task in the pool start.",
)


MODULE = '''"""One line.

Nobody reads ``stands``.
"""
# It is told
# where it lies.
raise ValueError(f"Waiting goes on for {seconds} s.", "stands")
'''
IN_TESTS = '''"""It stands."""
TEXTS = ["Mountains stand."]  # It lies.
assert TEXTS == "Nobody reads.", f"{TEXTS} is told"
print("It goes on.", len("It tells."))
'''
QUOTED = "```text\nit stands\n```\n\n`it stands` ``a `b` stands`` [page](goes-on.md)\n\n> it goes on\n\nstand-ins\n"


def found(path: Path, text: str) -> list[str]:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return [line.rpartition(": use ")[0].partition(":")[2] for line in prose.problems(path)]


@pytest.mark.parametrize(
    ("name", "text", "problems"),
    [
        (
            "a.md",
            "# A\n\nIt goes\non waiting. Whoever reads it, engineers who run it.\n",
            ["3: goes on", "4: Whoever"],
        ),
        ("a.md", QUOTED, []),
        *(("a.md", text, []) for text in RIGHT),
        ("a.py", MODULE, ["3: Nobody", "5: told", "6: lies", "7: goes on"]),
        ("tests/a.py", IN_TESTS, ["1: stands", "2: lies", "3: told", "4: goes on", "4: tells"]),
    ],
)
def test_what_is_found(
    name: str, text: str, problems: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    assert found(tmp_path / name, text) == problems


@pytest.mark.parametrize(("text", "wrong"), WRONG, ids=lambda one: one[:30])
def test_what_is_wrong(text: str, wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    assert f"1: {wrong}" in found(tmp_path / "a.md", text)


def test_other_files_of_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prose, "ROOT", tmp_path)
    names = ("deploy/alerts.yaml", ".github/ISSUE_TEMPLATE/bug.yml", "example_dags/a.py", "deploy/a.tf")
    for name in (*names, "CODE_OF_CONDUCT.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("# Nobody reads it.\n")
    assert len([problem for path in prose.files() for problem in prose.problems(path)]) == 5
