# SPDX-License-Identifier: Apache-2.0
"""An emulator for each module, with its ``SETTINGS`` if it has any, and a caller of it as if just started."""

from collections.abc import Iterator

import pytest
from emulator_client import Caller

from lucidworks_provider.emulator import running
from lucidworks_provider.emulator.server import RunningEmulator


@pytest.fixture(scope="module")
def emulator(request: pytest.FixtureRequest) -> Iterator[RunningEmulator]:
    with running(getattr(request.module, "SETTINGS", None)) as started:
        yield started


@pytest.fixture
def caller(emulator: RunningEmulator) -> Caller:
    """With a token of the scope of predictions."""
    emulator.state.reset()
    return Caller(emulator).log_in()


@pytest.fixture(scope="module")
def shared() -> Iterator[Caller]:
    """For calls that are refused, of an emulator that no test resets."""
    with running() as started:
        yield Caller(started).log_in()
