# SPDX-License-Identifier: Apache-2.0
"""
Credentials that somebody wrote into the argument of an operator, although they belong into a connection.

Airflow keeps what a constructor is given, and stores what a mapped operator is given. So every text among them
stands apart from the argument before Airflow sees it, whatever its name: Airflow's masker does not know
``serviceAccountKey``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lucidworks_provider.client.api.secrets import MASK
from lucidworks_provider.client.auth.redaction import TokenText
from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.secrets import RedactedDict, SecretMap, is_template, warn, withhold

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

ARGUMENT = "training_data_credentials"


class CredentialsMixin:
    """Of an operator with ``credentials_conn_id`` and ``training_data_credentials``."""

    _credential_keys: Mapping[str, str] = SecretMap({})

    if TYPE_CHECKING:
        credentials_conn_id: str | None
        training_data_credentials: Any

    def __setattr__(self, name: str, value: Any) -> None:
        """Mask the keys before Airflow keeps an argument, given or rendered."""
        if name == ARGUMENT:
            value, keys = withhold(conceal(value))
            # What is rendered is a copy in which those that were given are masked already.
            self._credential_keys = SecretMap({**self._credential_keys, **keys})
        super().__setattr__(name, value)

    def _hook_apply_defaults(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Airflow calls this with the arguments that it keeps."""
        return args, _concealed_in(kwargs)

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """As any operator's; what Airflow stores of a mapped operator has no credentials."""
        partial: OperatorPartial = super().partial(**_concealed_in(kwargs))  # type: ignore[misc]
        return partial

    def _warn_of_keys(self) -> None:
        warn(self._credential_keys, ARGUMENT, "put it into a connection and name that in credentials_conn_id")

    def _credentials(self) -> dict[str, str] | None:
        """Return what to send; a connection is read only now."""
        given = reveal(self.training_data_credentials, self._credential_keys)
        if not self.credentials_conn_id:
            return given
        if given:
            raise InputError(f"Give either credentials_conn_id or {ARGUMENT}.")
        from lucidworks_provider.hooks.third_party import service_account_key

        return {"serviceAccountKey": service_account_key(self.credentials_conn_id)}


def conceal(argument: Any) -> Any:
    """
    The argument with ``***`` for what is secret, which stands beside it; survives copies and pickles.

    :param argument: a dictionary, or JSON. A template is no secret; what it becomes is one.
    """
    if argument is None or isinstance(argument, RedactedDict) or hasattr(argument, "resolve"):
        return argument  # the last are references to what another task returns
    if isinstance(argument, str):
        if is_template(argument):
            return argument
        try:
            argument = json.loads(argument)
        except ValueError:
            return MASK
    if not isinstance(argument, Mapping):
        return MASK
    written = {
        # A key file as a dictionary is what one has; the service wants its text.
        name: json.dumps(value) if isinstance(value, Mapping) else value
        for name, value in argument.items()
    }
    keys = {
        name: TokenText(value)
        for name, value in written.items()
        if isinstance(value, str) and value != MASK and not is_template(value)
    }
    concealed = RedactedDict({name: MASK if name in keys else value for name, value in written.items()})
    concealed.keys_apart = SecretMap(keys)
    return concealed


def reveal(rendered: Any, keys: Mapping[str, str]) -> dict[str, str] | None:
    """
    What to send.

    :param rendered: the argument after its templates were rendered.
    :param keys: what stood beside it.
    :raises InputError: names the field, and shows none of it.
    """
    if rendered is None:
        return None
    rest, found = withhold(conceal(rendered))
    if not isinstance(rest, Mapping):
        raise InputError(
            f'{ARGUMENT} is no dictionary; write it as {{"serviceAccountKey": "…"}}, or better put the key into a '
            "connection and name that in credentials_conn_id."
        )
    given = {name: value for name, value in {**rest, **found, **keys}.items() if value is not None}
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str) or not value.strip() or value == MASK:
            raise InputError(f"{ARGUMENT}: {name} must be a text that is not empty.")
    return given or None


def _concealed_in(arguments: dict[str, Any]) -> dict[str, Any]:
    if ARGUMENT not in arguments:
        return arguments
    return {**arguments, ARGUMENT: conceal(arguments[ARGUMENT])}
