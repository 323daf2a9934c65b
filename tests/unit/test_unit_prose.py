# SPDX-License-Identifier: Apache-2.0
"""Prose: banned phrases are found in text, and nowhere else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dev import prose

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def found(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(prose, "ROOT", path.parent)
    path.write_text(text)
    return [line.rpartition(": use ")[0] for line in prose.problems(path)]


def test_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "# Waiting\n\nThe retry goes\non waiting. Whoever reads it, engineers who run it.\n"
    assert found(tmp_path / "a.md", text, monkeypatch) == ["a.md:3: goes on", "a.md:4: Whoever"]


def test_code_and_quotations_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "```text\nit stands\n```\n\n`it stands` ``a `b` stands`` [page](goes-on.md)\n\n> it goes on\n\nstand-ins\n"
    assert found(tmp_path / "a.md", text, monkeypatch) == []


def test_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '''"""One line.

    Nobody reads ``stands``.
    """
    # It is told
    # where it lies.
    raise ValueError(f"Waiting goes on for {seconds} s.", "stands")
    '''.replace("\n    ", "\n")
    assert found(tmp_path / "a.py", text, monkeypatch) == [
        "a.py:3: Nobody",
        "a.py:5: told",
        "a.py:6: lies",
        "a.py:7: goes on",
    ]


def test_the_pages_and_the_package_pass() -> None:
    assert [problem for path in prose.files() for problem in prose.problems(path)] == []
