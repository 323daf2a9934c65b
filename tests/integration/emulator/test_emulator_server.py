# SPDX-License-Identifier: Apache-2.0
"""The server: command line, clean exit, TLS, independence from the client, and the import without extras."""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from emulator_client import Caller

from dev import demo
from lucidworks_provider import emulator as package
from lucidworks_provider.emulator.__main__ import command_line, main, read_settings
from lucidworks_provider.emulator.rules import InvalidValue
from lucidworks_provider.emulator.settings import EmulatorSettings

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_command_line_serves_and_exits_cleanly(name: signal.Signals) -> None:
    options = "-m lucidworks_provider.emulator --port 0 --client-id me --customer-id us"
    command = [sys.executable, *options.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stdout is not None
        output = "".join(process.stdout.readline() for _ in range(6))
        assert "NOT the vendor's service" in output
        [found] = re.findall(r"AIRFLOW_CONN_LUCIDWORKS_DEFAULT=(.*)", output)
        connection = json.loads(shlex.split(found)[0])
        assert (connection["conn_type"], connection["login"]) == ("lucidworks", "me")
        assert connection["extra"]["customer_id"] == "us"
        base = connection["extra"]["auth_url"]
        assert connection["extra"]["models_url"] == base
        client = (connection["login"], connection["password"])
        assert Caller(SimpleNamespace(url=base), client=client).ask_token().status_code == 200
        process.send_signal(name)
        assert process.wait(10) == 0


def test_options_become_settings() -> None:
    line = (
        "--client a:b:c --rate-limit 5/2 --rate-mode bucket --no-retry-after --retrieved 404 --no-scope-check "
        "--both-tokens-live --token-ttl 60 --deployment 5E893B16-01f8-427c-9ca8-ba52b01b1ba3 --customer-id us "
        "--deploy-seconds 0 --set undeploy_path=rest --set batch_overflow=400 --set echo_credentials=true "
        "--set embedding_shape=e"
    )
    settings = read_settings(command_line().parse_args(line.split()))
    assert settings == EmulatorSettings(
        clients={"demo-client": "demo-secret", "a": "b:c"},
        **{"rate_limit": 5, "rate_window": 2.0, "rate_mode": "bucket", "retry_after": False},
        **{"retrieved": "404", "scope_check": False, "both_tokens_live": True, "token_ttl": 60},
        **{"deployments": ("5e893b16-01f8-427c-9ca8-ba52b01b1ba3",), "customer_id": "us"},
        **{"deploy_seconds": 0, "undeploy_path": "rest", "embedding_shape": "e"},
        **{"batch_overflow": "400", "echo_credentials": True},
    )
    assert read_settings(command_line().parse_args([])) == EmulatorSettings()
    assert "demo-secret" not in repr(settings)


@pytest.mark.parametrize(
    "line",
    [
        *("--client x", "--rate-limit many", "--deployment x", "--latency -1", "--token-ttl 0"),
        *("--training-seconds -1", "--customer-id a/b", "--set latency", "--set latency=slow"),
        *("--set rate_mode=leaky", "--set sources_shape=object", "--set embedding_shape=tokensUsed"),
        "--set clients={}",
    ],
)
def test_wrong_options(line: str) -> None:
    with pytest.raises(InvalidValue):
        read_settings(command_line().parse_args(line.split()))


def test_tls(tmp_path: Path) -> None:
    trustme = pytest.importorskip("trustme")
    authority, ca, both = trustme.CA(), tmp_path / "ca.pem", tmp_path / "both.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(both)
    authority.cert_pem.write_to_path(ca)
    with package.running(ssl_certfile=both, ssl_keyfile=both) as emulator:
        assert emulator.url.startswith("https://127.0.0.1:")
        assert json.loads(emulator.conn_json())["extra"]["application_url"] == emulator.url
        caller = Caller(emulator)
        emulator.state.faults.inject(package.faults.Fault("disconnect"))
        with pytest.raises(requests.ConnectionError):
            caller.ask_token(verify=str(ca))
        assert caller.ask_token(verify=str(ca)).status_code == 200


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "127.0.0.1"), ("", "127.0.0.1"), ("::", "[::1]")])  # noqa: S104
def test_an_emulator_on_all_addresses_is_shown_on_the_loopback(host: str, shown: str) -> None:
    """The provider refuses plain http to any other address."""
    with package.running(host=host) as emulator:
        assert emulator.url.startswith(f"http://{shown}:")


@pytest.mark.parametrize(
    ("options", "reason"),
    [("--port 99999", "port must be 0-65535"), ("--port 0 --certfile /no/such.pem", "No such file")],
)
def test_what_cannot_be_served_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: str, reason: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="1"):
        main(options.split())
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("Cannot serve on 127.0.0.1")
    assert reason in line


def test_the_demo_reaches_its_emulator_past_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with demo.Emulator(tmp_path / "emulator.log") as emulator:
        emulator.set(latency=0.5)
        assert emulator.get("settings")["latency"] == 0.5
        with pytest.raises(requests.HTTPError, match="400"):
            emulator.post("faults", kind="earthquake")


def test_the_demo_empties_no_folder_but_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("Mine.")
    monkeypatch.setattr(sys, "argv", ["demo", "--folder", str(tmp_path)])
    monkeypatch.setattr(demo, "run", lambda folder, *, keep: 0)
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert (tmp_path / "mine.txt").exists()


def test_stops_quickly_while_a_fault_sleeps() -> None:
    with ThreadPoolExecutor(1) as pool:
        with package.running() as emulator:
            caller = Caller(emulator)
            caller.fault("timeout", delay=60)
            waiting = pool.submit(caller.ask_token)
            while emulator.state.faults.open():
                time.sleep(0.01)
            began = time.perf_counter()
        assert time.perf_counter() - began < 5
        with pytest.raises(requests.ConnectionError):
            waiting.result(5)


def test_shares_no_code_with_the_client() -> None:
    for module in Path(package.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lucidworks_provider"):
                assert (node.module or "").startswith("lucidworks_provider.emulator"), module


def test_missing_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['starlette'] = None\n"
        "import lucidworks_provider.emulator as e; e.EmulatorSettings()\n"
        "e.create_app()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False
    )
    assert done.returncode == 1
    assert "airflow-provider-lucidworks[emulator]" in done.stderr


def test_import_is_cheap() -> None:
    code = "import sys, lucidworks_provider.emulator; assert not {'starlette', 'uvicorn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)


def test_public_names() -> None:
    assert package.__all__ == ["EmulatorSettings", "create_app", "running"]
    with pytest.raises(AttributeError):
        _ = package.nothing
