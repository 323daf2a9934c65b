# SPDX-License-Identifier: Apache-2.0
"""docs/promises.md: each promise has a test, and a mutant that can be applied; ``make promises`` runs them."""

import ast
from pathlib import Path

import pytest

from dev.promises import PACKAGE, PAGE, REPOSITORY, Promise, every, killed, mutate, page


def test_the_page_is_the_list() -> None:
    assert PAGE.read_text() == page(), "python -m dev.promises --write"


@pytest.mark.parametrize("promise", every(), ids=lambda promise: promise.test.rpartition("::test_")[2])
def test_each_promise_can_be_broken(promise: Promise, tmp_path: Path) -> None:
    file, *names = promise.test.split("::")
    found: ast.AST = ast.parse((REPOSITORY / "tests" / file).read_text())
    for name in names:
        [found] = [one for one in ast.iter_child_nodes(found) if getattr(one, "name", None) == name]
    copy = tmp_path / PACKAGE / promise.module
    copy.parent.mkdir(parents=True)
    copy.write_text((REPOSITORY / PACKAGE / promise.module).read_text())
    before = mutate(promise, tmp_path)
    assert before != copy.read_text()
    compile(copy.read_text(), promise.module, "exec")


def test_a_test_that_does_not_run_kills_nothing(tmp_path: Path) -> None:
    one = every()[0]
    module = tmp_path / PACKAGE / one.module
    module.parent.mkdir(parents=True)
    module.write_text(one.find)
    assert killed(one, tmp_path)[0] is False, "there is no such test in an empty folder"
