# SPDX-License-Identifier: Apache-2.0
"""
Keys of third parties in an operator's argument.

They should be in a connection. A key in an argument is removed before Airflow stores the argument (the serialized
DAG, the rendered fields) or shows it; Airflow's own masker does not know all names, e.g. ``serviceAccountKey``.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lucidworks_provider.client.secrets import MASK, TokenText, is_secret_name
from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

ARGUMENT = "training_data_credentials"
# `"apiKey": "…"` in a string that is not JSON: a template, or the repr of a dictionary.
_WRITTEN = re.compile(
    r"""(?P<head>(?P<quote>["'])(?P<name>[\w-]+)(?P=quote)\s*:\s*)(?P<mark>["'])(?P<value>(?:(?!(?P=mark)).)*)(?P=mark)"""
)


class RedactedDict(dict[str, Any]):
    """
    An argument with ``***`` in place of its keys, which are in :attr:`secrets`.

    Airflow stores the arguments of a mapped operator, and creates the operator from them later.
    """

    secrets: Mapping[str, str]


class RedactedText(str):
    """The same for a template with keys in it."""

    secrets: Mapping[str, str]


class SecretMap(Mapping[str, str]):
    """
    Keys by name, as an attribute of an operator.

    It cannot be serialized to JSON and its repr is masked: OpenLineage serializes all attributes of an operator, with
    ``include_full_task_info``.
    """

    __slots__ = ("_by_name",)

    def __init__(self, by_name: Mapping[str, str]) -> None:
        self._by_name = dict(by_name)

    def __getitem__(self, name: str) -> str:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return MASK


def split_secrets(argument: Any) -> tuple[Any, dict[str, str]]:
    """
    Split an argument into its public part and its keys.

    :param argument: a dictionary, or JSON; anything else is returned unchanged.
    :return: the argument with ``***`` in place of its keys, and the keys by name or, where nested, by path.
    """
    if isinstance(argument, RedactedDict | RedactedText):
        plain = dict(argument) if isinstance(argument, RedactedDict) else str(argument)
        return plain, dict(argument.secrets)
    config = _decoded(argument)
    if not isinstance(config, Mapping):
        return _split_text(argument) if isinstance(argument, str) else (argument, {})
    keys: dict[str, str] = {}
    rest = _split(config, "", keys)
    return (rest, keys) if keys else (argument, {})


def _split(value: Any, path: str, keys: dict[str, str], *, secret: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _split(one, _below(path, name), keys, secret=secret or is_secret_name(name))
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_split(one, _below(path, n), keys, secret=secret) for n, one in enumerate(value)]
    if not secret or not _is_key(value):
        return value
    keys[path] = TokenText(value)
    return MASK


def _below(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


def redact_argument(argument: Any) -> Any:
    """The argument as Airflow may store it; :func:`split_secrets` recovers the keys."""
    rest, keys = split_secrets(argument)
    if not keys:
        return rest
    stored = RedactedDict(rest) if isinstance(rest, Mapping) else RedactedText(rest)
    stored.secrets = SecretMap(keys)
    return stored


def _split_text(text: str) -> tuple[str, dict[str, str]]:
    keys: dict[str, str] = {}

    def cover(found: re.Match[str]) -> str:
        if not is_secret_name(found["name"]) or not _is_key(found["value"]):
            return found[0]
        keys[found["name"]] = TokenText(found["value"])
        return f"{found['head']}{found['mark']}{MASK}{found['mark']}"

    return _WRITTEN.sub(cover, text), keys


def _is_key(value: object) -> bool:
    # A template is not a secret; its value is removed after rendering.
    return isinstance(value, str) and value != MASK and not is_template(value)


def restore_secrets(config: Mapping[str, Any] | None, keys: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Insert the keys, when the request is built."""
    if not keys:
        return config
    left = dict(keys)

    def restored(value: Any, path: str, name: str = "") -> Any:
        if isinstance(value, Mapping):
            return {key: restored(one, _below(path, key), str(key)) for key, one in value.items()}
        if isinstance(value, list):
            return [restored(one, _below(path, n)) for n, one in enumerate(value)]
        # Keys of a string that is not JSON have no path.
        known = next((one for one in (path, name) if one in left), None)
        return left.pop(known) if value == MASK and known is not None else value

    rest = restored(config or {}, "")
    return {**rest, **{name: key for name, key in left.items() if "/" not in name}}


def is_template(value: str) -> bool:
    """Whether Jinja renders it."""
    return "{{" in value or "{%" in value


def _decoded(argument: Any) -> Any:
    if not isinstance(argument, str) or is_template(argument):
        return argument
    try:
        return json.loads(argument)
    except (ValueError, RecursionError):
        return argument


class SecretArgumentMixin:
    """An argument that Airflow stores and shows without its keys."""

    _redacted_argument: ClassVar[str]
    # What to do instead, for the warning.
    _cure: ClassVar[str]
    _keys: Mapping[str, str] = SecretMap({})

    @staticmethod
    def _redact(argument: Any) -> Any:
        return redact_argument(argument)

    def __setattr__(self, name: str, value: Any) -> None:
        """Mask the keys before Airflow keeps an argument, given or rendered."""
        if name == self._redacted_argument:
            value, keys = split_secrets(self._redact(value))
            # What is rendered is a copy in which those that were given are masked already.
            self._keys = SecretMap({**self._keys, **keys})
        super().__setattr__(name, value)

    def _hook_apply_defaults(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Called by Airflow with the arguments that it stores."""
        stored = self.redact_arguments(kwargs)
        passed: tuple[Any, dict[str, Any]] = super()._hook_apply_defaults(*args, **stored)  # type: ignore[misc]
        return passed

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Airflow stores the arguments of a mapped operator."""
        partial: OperatorPartial = super().partial(**cls.redact_arguments(kwargs))  # type: ignore[misc]
        return partial

    @classmethod
    def redact_arguments(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as Airflow may store them."""
        name = cls._redacted_argument
        return {**arguments, name: cls._redact(arguments[name])} if name in arguments else dict(arguments)

    def _warn_about_keys(self) -> None:
        if self._keys:
            warnings.warn(
                f"{self._redacted_argument} was given a key ({', '.join(self._keys)}); {self._cure}.",
                UserWarning,
                stacklevel=3,
            )


class CredentialsMixin(SecretArgumentMixin):
    """``credentials_conn_id`` and ``training_data_credentials``."""

    _redacted_argument = ARGUMENT
    _cure = "put it into a connection and name that in credentials_conn_id"

    if TYPE_CHECKING:
        credentials_conn_id: str | None
        training_data_credentials: Any

    @staticmethod
    def _redact(argument: Any) -> Any:
        return redact_credentials(argument)

    def _credentials(self) -> dict[str, str] | None:
        """Return what to send; a connection is read only now."""
        given = resolve_credentials(self.training_data_credentials, self._keys)
        if not self.credentials_conn_id:
            return given
        if given:
            raise InputError(f"Give either credentials_conn_id or {ARGUMENT}.")
        from lucidworks_provider.hooks.third_party import service_account_key

        return {"serviceAccountKey": service_account_key(self.credentials_conn_id)}


def redact_credentials(argument: Any) -> Any:
    """
    The argument with ``***`` in place of every string, whatever its name; survives copies and pickles.

    :param argument: a dictionary, or JSON. A template is not a secret; its value is one.
    """
    if argument is None or isinstance(argument, RedactedDict) or hasattr(argument, "resolve"):
        return argument  # an XComArg
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
        # The service expects the text of a key file.
        name: json.dumps(value) if isinstance(value, Mapping) else value
        for name, value in argument.items()
    }
    keys = {
        name: TokenText(value)
        for name, value in written.items()
        if isinstance(value, str) and value != MASK and not is_template(value)
    }
    redacted = RedactedDict({name: MASK if name in keys else value for name, value in written.items()})
    redacted.secrets = SecretMap(keys)
    return redacted


def resolve_credentials(rendered: Any, keys: Mapping[str, str]) -> dict[str, str] | None:
    """
    The credentials to send.

    :param rendered: the argument after its templates were rendered.
    :param keys: its secrets.
    :raises InputError: names the field without its value.
    """
    if rendered is None:
        return None
    rest, found = split_secrets(redact_credentials(rendered))
    if not isinstance(rest, Mapping):
        raise InputError(
            f'{ARGUMENT} is not a dictionary; write it as {{"serviceAccountKey": "…"}}, or put the key into a '
            "connection and name that in credentials_conn_id."
        )
    given = {**rest, **found, **keys}
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str) or not value.strip() or value == MASK:
            raise InputError(f"{ARGUMENT}: {name} must be a text that is not empty.")
    return given or None
