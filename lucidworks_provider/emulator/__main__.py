# SPDX-License-Identifier: Apache-2.0
"""The command line: ``lucidworks-emulator`` or ``python -m lucidworks_provider.emulator``."""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import sys
import threading
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.settings import (
    ChunkOverflow,
    EmulatorSettings,
    Oversize,
    RateMode,
    Retrieved,
    SettingsError,
    deployment_ids,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; both are a clean exit."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        settings = _settings(options)
    except SettingsError as wrong:
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
            _greet(emulator.url, emulator.conn_json(), settings)
            stop.wait()
    except OSError as unavailable:
        parser.exit(1, f"Cannot listen on {options.host}:{options.port}: {unavailable}\n")
    _say("Emulator stopped.")
    return 0


def _greet(url: str, connection: str, settings: EmulatorSettings) -> None:
    _say(
        "Emulator of the Lucidworks AI API. This is NOT the vendor's service; its vectors and texts are made up."
    )
    _say(f"URL:       {url}")
    _say(f"Client id: {', '.join(settings.clients)}")
    _say(f"Customer:  {settings.customer_id}")
    _say(f"Control:   {url}/_emulator/settings (no authentication; keep it on the loopback)")
    _say(f"export AIRFLOW_CONN_LUCIDWORKS_DEFAULT={shlex.quote(connection)}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    default = EmulatorSettings
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
    add("--auth-server-id", default=default.auth_server_id, help="another one in the token path gives 404")
    add("--token-ttl", type=int, default=default.token_ttl, metavar="SECONDS")
    add("--both-tokens-live", action="store_true", help="a new token does not delete the old one")
    add("--no-scope-check", action="store_true", help="accept a token of any scope everywhere")
    add("--query-only", action="store_true", help="token parameters in the query only, not in a form body")
    add(
        "--pending-polls",
        type=int,
        default=default.pending_polls,
        metavar="N",
        help="polls answered SUBMITTED",
    )
    add("--pending-seconds", type=float, default=default.pending_seconds, metavar="T")
    add("--retrieved", choices=[one.value for one in Retrieved], default="empty", help="later polls get")
    add("--retention", type=float, default=default.retention, metavar="SECONDS")
    add("--chunk-overflow", choices=[one.value for one in ChunkOverflow], default="truncate")
    add("--oversize", choices=[one.value for one in Oversize], default="413")
    add("--rate-limit", metavar="N/SECONDS", help="so many calls pass in so many seconds; more get 429")
    add(
        "--rate-mode",
        choices=[one.value for one in RateMode],
        default="window",
        help="a sliding window, or a bucket of tokens that holds those of one second",
    )
    add("--retry-after", action=argparse.BooleanOptionalAction, default=True, help="send it with such a 429")
    add("--strict-segments", action="store_true", help="'_' is not read as '-' in the path")
    add("--legacy-shape", action="store_true", help="results in the older published shape")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="delay of each other endpoint")
    add("--token-latency", type=float, default=0.0, metavar="SECONDS", help="delay of the token endpoint")
    add("--deployment", action="append", default=[], metavar="UUID", help="a custom model; repeatable")
    add(
        "--customer-id",
        default=default.customer_id,
        help="another one in the path of the Models API gives 403",
    )
    add("--training-seconds", type=float, default=default.training_seconds, metavar="T")
    add("--deploy-seconds", type=float, default=default.deploy_seconds, metavar="T")
    add("--undeploy-seconds", type=float, default=default.undeploy_seconds, metavar="T")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other switch, with its value as JSON or as plain text; repeatable",
    )
    return parser


def _settings(options: argparse.Namespace) -> EmulatorSettings:
    clients = {options.client_id: options.client_secret}
    for pair in options.client:
        client_id, colon, secret = pair.partition(":")
        if not colon:
            raise SettingsError("--client: ID:SECRET")
        clients[client_id] = secret
    rate_limit, rate_window = _rate(options.rate_limit)
    settings = EmulatorSettings(
        clients=clients,
        auth_server_id=options.auth_server_id,
        token_ttl=options.token_ttl,
        both_tokens_live=options.both_tokens_live,
        scope_check=not options.no_scope_check,
        query_only=options.query_only,
        pending_polls=options.pending_polls,
        pending_seconds=options.pending_seconds,
        retrieved=Retrieved(options.retrieved),
        retention=options.retention,
        chunk_overflow=ChunkOverflow(options.chunk_overflow),
        oversize=Oversize(options.oversize),
        rate_limit=rate_limit,
        rate_window=rate_window,
        rate_mode=RateMode(options.rate_mode),
        retry_after=options.retry_after,
        strict_segments=options.strict_segments,
        legacy_shape=options.legacy_shape,
        latency=options.latency,
        token_latency=options.token_latency,
        deployments=deployment_ids(options.deployment),
        customer_id=options.customer_id,
        training_seconds=options.training_seconds,
        deploy_seconds=options.deploy_seconds,
        undeploy_seconds=options.undeploy_seconds,
    )
    return settings.patched(dict(_switch(text) for text in options.set))


def _switch(text: str) -> tuple[str, object]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SettingsError("--set: NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _rate(text: str | None) -> tuple[int | None, float]:
    if text is None:
        return None, EmulatorSettings.rate_window
    calls, _, seconds = text.partition("/")
    try:
        return int(calls), float(seconds or 1)
    except ValueError:
        raise SettingsError("--rate-limit: N/SECONDS, for example 10/1") from None


if __name__ == "__main__":
    sys.exit(main())
