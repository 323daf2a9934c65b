# SPDX-License-Identifier: Apache-2.0
"""The tasks of the example for calls of one's own, run over a token that dies between them."""

import runpy
from pathlib import Path

from transport_wire import kill

import lucidworks_provider
from lucidworks_provider.client.http.messages import PREDICT_SCOPE
from lucidworks_provider.emulator.server import RunningEmulator

EXAMPLE = Path(lucidworks_provider.__file__).parents[1] / "example_dags" / "call_an_endpoint.py"


def test_each_task_outlives_a_token_that_dies(emulator: RunningEmulator) -> None:
    example = runpy.run_path(str(EXAMPLE))
    assert example["use_cases"].function()
    kill(emulator)
    assert example["use_cases"].function()
    kill(emulator)
    assert example["several_at_a_time"].function(20) == 20
    kill(emulator)
    assert example["with_another_client"].function() == 200
    assert emulator.state.log.issued[PREDICT_SCOPE] == 4
