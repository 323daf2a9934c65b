# SPDX-License-Identifier: Apache-2.0
"""The service, one task instance, and waits of milliseconds, for all operators."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from operator_service import Service, new_context

from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.jobs import decisions


@pytest.fixture
def service(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The emulator as the default connection."""
    monkeypatch.setattr(decisions, "GONE_PATIENCE", 0.2)
    monkeypatch.setattr(decisions, "NEVER_SEEN", 0.1)
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    with ExitStack() as servers:
        service = Service(emulator, monkeypatch, servers)
        service.connect()
        yield service


@pytest.fixture
def context(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a task instance of Airflow 3.3; `both_stores` adds one without a task state store, as before 3.3."""
    return new_context(state_store=getattr(request, "param", True))
