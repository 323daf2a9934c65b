# SPDX-License-Identifier: Apache-2.0
"""The command line: ``lucidworks-emulator`` or ``python -m lucidworks_provider.emulator``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from lucidworks_provider.emulator.rules import InvalidValue
from lucidworks_provider.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_DEFAULTS = EmulatorSettings()
# Settings with an option of their own; ``--set`` reaches the others.
_OPTIONS = {one.name: one for one in dataclasses.fields(_DEFAULTS) if one.metadata.get("option")}
_METAVARS = {int: "N", float: "SECONDS"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; both are a clean exit."""
    parser = command_line()
    options = parser.parse_args(arguments)
    try:
        settings = read_settings(options)
    except InvalidValue as wrong:
        parser.error(str(wrong))
    try:
        from lucidworks_provider.emulator import running
    except ImportError as missing:
        parser.exit(1, f"{missing}\n")
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    try:
        with running(
            settings,
            options.port,
            host=options.host,
            ssl_certfile=options.certfile,
            ssl_keyfile=options.keyfile,
        ) as emulator:
            _say(
                "Emulator of the Lucidworks AI API. This is NOT the vendor's service; "
                "its vectors and texts are made up.",
                f"URL:       {emulator.url}",
                f"Client id: {', '.join(settings.clients)}",
                f"Customer:  {settings.customer_id}",
                f"Control:   {emulator.url}/_emulator/settings (no authentication; keep it on the loopback)",
                f"export AIRFLOW_CONN_LUCIDWORKS_DEFAULT={shlex.quote(emulator.conn_json())}",
            )
            stop.wait()
    except (OSError, OverflowError) as unavailable:  # a port above 65535 overflows
        parser.exit(1, f"Cannot serve on {options.host}:{options.port}: {unavailable}\n")
    _say("Emulator stopped.")
    return 0


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lucidworks-emulator",
        description="A strict local emulator of the Lucidworks AI HTTP API. It is not the vendor's service.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; the control endpoints have no authentication",
    )
    add("--port", type=int, default=8765, help="0 picks a free one")
    add("--certfile", help="serve HTTPS with this PEM certificate")
    add("--keyfile", help="PEM key of the certificate")
    add("--client-id", default="demo-client")
    add("--client-secret", default="demo-secret")
    add("--client", action="append", default=[], metavar="ID:SECRET", help="one more client; repeatable")
    for name, setting in _OPTIONS.items():
        default = getattr(_DEFAULTS, name)
        kind: dict[str, Any] = {"type": type(default), "metavar": _METAVARS.get(type(default), "VALUE")}
        if isinstance(default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        add(f"--{name.replace('_', '-')}", default=default, help=setting.metadata["option"], **kind)
    add(
        "--rate-limit",
        metavar="N/SECONDS",
        help="at most N calls in this number of seconds; further ones get 429",
    )
    add("--deployment", action="append", default=[], metavar="UUID", help="a custom model; repeatable")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, with its value as JSON or as plain text; repeatable",
    )
    return parser


def read_settings(options: argparse.Namespace) -> EmulatorSettings:
    clients = {options.client_id: options.client_secret}
    for pair in options.client:
        client_id, colon, secret = pair.partition(":")
        if not colon:
            raise InvalidValue("--client: ID:SECRET")
        clients[client_id] = secret
    rate_limit, rate_window = _rate(options.rate_limit)
    settings = EmulatorSettings(
        clients=clients,
        rate_limit=rate_limit,
        rate_window=rate_window,
        deployments=options.deployment,
        **{name: getattr(options, name) for name in _OPTIONS},
    )
    return settings.patched(dict(_assignment(one) for one in options.set))


def _assignment(given: str) -> tuple[str, object]:
    name, equals, value = given.partition("=")
    if not equals:
        raise InvalidValue("--set: NAME=VALUE")
    default = getattr(_DEFAULTS, name, None)
    if isinstance(default, str):  # 404 is a text for some
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _rate(given: str | None) -> tuple[int | None, float]:
    if given is None:
        return None, _DEFAULTS.rate_window
    calls, _, seconds = given.partition("/")
    try:
        return int(calls), float(seconds or 1)
    except ValueError:
        raise InvalidValue("--rate-limit: N/SECONDS, for example 10/1") from None


if __name__ == "__main__":
    sys.exit(main())
