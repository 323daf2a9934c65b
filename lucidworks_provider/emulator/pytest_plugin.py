# SPDX-License-Identifier: Apache-2.0
"""
Fixtures of pytest for tests of DAGs: the emulator, and a connection to it.

pytest finds this module by itself where the package is installed, in every run, so it imports next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from lucidworks_provider.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucidworks_provider.emulator.server import RunningEmulator


@pytest.fixture
def lucidworks_emulator_settings() -> EmulatorSettings:
    """How the emulator behaves; override it in a module or a ``conftest.py``."""
    return EmulatorSettings()


@pytest.fixture
def lucidworks_emulator(
    lucidworks_emulator_settings: EmulatorSettings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RunningEmulator]:
    """
    An emulator for one test, and the connection ``lucidworks_default`` to it.

    The token is shared in memory (``share_via``), so run what you test in the test's process: a hook, an operator,
    ``dag.test()``. Requests bypass any proxy of the environment.
    """
    from lucidworks_provider.emulator import running

    with running(lucidworks_emulator_settings) as emulator:
        monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", emulator.conn_json(share_via="memory"))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, ",".join(filter(None, (os.environ.get(name), "127.0.0.1"))))
        yield emulator
