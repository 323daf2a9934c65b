# SPDX-License-Identifier: Apache-2.0
"""The tasks of the example for calls of one's own, run over a token that dies between them."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import lucidworks_provider
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope

EXAMPLE = Path(lucidworks_provider.__file__).parents[1] / "example_dags" / "call_an_endpoint.py"


@pytest.fixture(scope="module")
def example() -> Any:
    """The module of the DAG."""
    spec = importlib.util.spec_from_file_location("call_an_endpoint", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_task_outlives_a_token_that_dies(example: Any, emulator: RunningEmulator) -> None:
    def kill() -> None:
        assert emulator.state.tokens.kill(list(Scope)) == 1

    assert example.use_cases.function()
    kill()
    assert example.use_cases.function()
    kill()
    assert example.several_at_a_time.function(20) == 20
    kill()
    assert example.with_another_client.function() == 200
    assert emulator.state.log.issued[Scope.PREDICT.value] == 4
