# SPDX-License-Identifier: Apache-2.0
"""A new client secret while processes with the old one run: what docs/security.md says about it."""

import json
import logging
from dataclasses import replace

import pytest

from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import AuthenticationError
from lucidworks_provider.hooks.lucidworks import LucidworksHook


def hook_with(secret: str, emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> LucidworksHook:
    connection = json.loads(emulator.conn_json()) | {"password": secret}
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    hook = LucidworksHook()
    hook.get_settings()
    return hook


def test_it_costs_one_token_and_the_old_secret_fails_with_a_clear_error(
    emulator: RunningEmulator,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = hook_with("demo-secret", emulator, monkeypatch)
    before.call(list_use_cases())
    [live] = [name for name in variables if "live" in name]
    sealed = variables[live]

    monkeypatch.setattr(
        emulator.state, "settings", replace(emulator.state.settings, clients={"demo-client": "new-secret"})
    )
    # A process that holds a token keeps it.
    before.call(list_use_cases())

    with caplog.at_level(logging.WARNING):
        after = hook_with("new-secret", emulator, monkeypatch)
        after.call(list_use_cases())
    assert caplog.text.count("was not written with this client secret") == 1
    assert variables[live] != sealed
    assert sum(emulator.state.log.issued.values()) == 2

    # The new token has deleted the old one, and the old secret gets no other.
    with pytest.raises(AuthenticationError, match="Check Client ID and Client Secret"):
        before.call(list_use_cases())
    after.call(list_use_cases())
    assert sum(emulator.state.log.issued.values()) == 2
    before.close()
    after.close()
