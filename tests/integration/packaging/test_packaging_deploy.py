# SPDX-License-Identifier: Apache-2.0
"""The files of ``deploy``: names of metrics are those that a run emits, fields are those of the connection."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

import lucidworks_provider
from dev.packages import promtool_binary
from lucidworks_provider import metrics
from lucidworks_provider.client.settings import CONNECTION_TYPE, parse_settings
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.get_provider_info import CONN_FIELDS
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

ROOT = Path(lucidworks_provider.__file__).parents[1]
DEPLOY = ROOT / "deploy"
MAPPINGS = yaml.safe_load((DEPLOY / "prometheus/statsd_mapping.yaml").read_text())["mappings"]
ALERTS_FILE = DEPLOY / "prometheus/alerts.yaml"
[GROUP] = yaml.safe_load(ALERTS_FILE.read_text())["groups"]
RULES = [rule for rule in GROUP["rules"] if "alert" in rule]
RECORDED = {rule["record"]: rule["expr"] for rule in GROUP["rules"] if "record" in rule}
DASHBOARD = json.loads((DEPLOY / "grafana/dashboard.json").read_text())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
TERRAFORM = (DEPLOY / "terraform/connection.tf").read_text()
EXPRESSIONS = {
    **{
        rule["alert"]: " ".join(
            [rule["expr"], *(expr for name, expr in RECORDED.items() if name in rule["expr"])]
        )
        for rule in RULES
    },
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
}
TYPES = {"c": "counter", "g": "gauge", "ms": "timer"}


@dataclass(frozen=True)
class Series:
    """What Prometheus scrapes: a name of the mapping, its labels, and the kind on the wire."""

    name: str
    labels: frozenset[str]
    kind: str


def exported(line: str) -> Series | None:
    """What the exporter makes of a line, by the first mapping that matches; None for what it drops."""
    measured, _, value = line.partition(":")
    name, *tags = measured.split(",")
    for mapping in MAPPINGS:
        pattern = re.escape(mapping["match"]).replace(r"\*", "([^.]*)")
        if re.fullmatch(pattern, name):
            if mapping.get("action") == "drop":
                return None
            labels = {tag.partition("=")[0] for tag in tags} | set(mapping.get("labels", {}))
            return Series(mapping["name"], frozenset(labels), TYPES[value.split("|")[1]])
    raise AssertionError(f"no mapping for {line}")


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A StatsD server, to which Airflow's own logger sends what this package counts."""
    pytest.importorskip("airflow.sdk._shared.observability.metrics.statsd_logger")
    from airflow.sdk._shared.observability.metrics.statsd_logger import get_statsd_logger
    from statsd import StatsClient

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.2)
        logger = get_statsd_logger(
            stats_class=StatsClient,
            host="127.0.0.1",
            port=server.getsockname()[1],
            prefix="airflow",
            influxdb_tags_enabled=True,
            statsd_influxdb_enabled=True,
        )
        monkeypatch.setattr(metrics, "_stats", lambda: logger)
        yield server


@pytest.fixture
def sent(wire: socket.socket, emulator: RunningEmulator, tmp_path: Path) -> list[str]:
    """What a run sends: chunks of a job with a warning, predictions with a reject, a 429."""
    emulator.state.settings = emulator.state.settings.patched({"pending_polls": 0})
    emulator.state.faults.inject(Fault.from_json({"kind": "429", "match": "predict", "retry_after": 0}))
    emulator.state.faults.inject(Fault.from_json({"kind": "zeros", "match": "poll"}))
    ti = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1, max_tries=0)
    context: Any = {"ti": ti, "task_instance": ti}
    LucidworksChunkOperator(
        task_id="chunk",
        text="A tent for two. A stove.",
        chunker="sentence",
        model_id="gte-small",
        result_path=(tmp_path / "chunks.jsonl").as_uri(),
        deferrable=False,
    ).execute(context)
    LucidworksPredictionOperator(
        task_id="predict",
        use_case="embedding",
        model_id="gte-small",
        inputs=["A tent", ""],
        max_reject_ratio=0.5,
        result_path=(tmp_path / "vectors.jsonl").as_uri(),
    ).execute(context)
    lines: list[str] = []
    try:
        while True:
            lines += wire.recv(65_536).decode().splitlines()
    except TimeoutError:
        pass
    return lines


@pytest.fixture
def emitted(sent: list[str]) -> set[Series]:
    """What the exporter makes of it."""
    return {series for line in sent if (series := exported(line))}


def used(expression: str) -> tuple[set[str], set[str]]:
    """The names and labels of an expression."""
    names = {
        re.sub(r"_(bucket|sum|count)$", "", one) for one in re.findall(r"\blucidworks_[a-z_]+", expression)
    }
    labels = {
        label.strip()
        for group in re.findall(r"by \(([^)]*)\)", expression)
        for label in group.split(",")
        if label.strip() != "le"
    }
    return names, labels | set(re.findall(r"(\w+)\s*(?:=~|!=|=)\s*\"", expression))


def test_a_run_emits_each_documented_metric_under_its_mapping(emitted: set[Series]) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `lucidworks\.(\w+)` \| (\w+) \| ([\w, ]*)\|", page, re.M)
    assert (
        len(rows) == len(re.findall(r"^\| `lucidworks\.\w+` \| (?:counter|timer|gauge) \|", page, re.M)) == 9
    )
    suffix = {"counter": "_total", "timer": "_seconds", "gauge": ""}
    documented = {
        Series(
            f"lucidworks_{name}{suffix[kind]}",
            frozenset(filter(None, (tag.strip() for tag in tags.split(",")))),
            kind,
        )
        for name, kind, tags in rows
    }
    assert emitted == documented


def test_the_lines_on_the_page_are_sent(sent: list[str]) -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    [shown] = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    received = {re.sub(r":[\d.]+\|ms", ":41.7|ms", line) for line in sent}
    assert set(shown.splitlines()) <= received


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_what_an_expression_uses_is_emitted(where: str, emitted: set[Series]) -> None:
    names, labels = used(EXPRESSIONS[where])
    series = [one for one in emitted if one.name in names]
    assert {one.name for one in series} == names != set()
    assert all(labels <= one.labels for one in series)


def test_each_documented_metric_is_on_the_dashboard() -> None:
    shown = {
        name for panel in DASHBOARD["panels"] for one in panel["targets"] for name in used(one["expr"])[0]
    }
    assert shown == {one["name"] for one in MAPPINGS if one.get("action") != "drop"}


def test_outcomes_of_alerts_are_documented() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    words = {
        word
        for rule in RULES
        for value in re.findall(r'outcome(?:=~|!=|=)"([^"]*)"', rule["expr"])
        for word in value.split("|")
    }
    assert {word for word in words if not re.fullmatch(r"[45](\d\d|\.\.)", word)} <= set(
        re.findall(r"`(\w+)`", page)
    )


def test_alerts_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


REFUSED = 'requests_total{endpoint="token",outcome="401"}'
ANSWERED = 'requests_total{endpoint="predict",outcome="200"}'
SENT = 'requests_total{endpoint="predict",outcome="%s"}'
ENDED, DOCUMENTS = 'jobs_ended_total{outcome="%s"}', 'documents_total{outcome="%s"}'
SCOPE = "machinelearning.predict"
REFRESHED = f'token_refreshes_total{{scope="{SCOPE}"}}'
# An alert, how counters change in promtool's notation and minutes, and the minutes at which it fires (+) or not (-).
COURSES: list[tuple[str, dict[str, str], str]] = [
    # A counter that appears with its first burst.
    ("CredentialsRefused", {REFUSED: "_x20 2x60"}, "19- 21+ 30+ 40-"),
    # One that exists: nothing, growth, a reset to zero and a new burst, and a gap of the scrapes.
    ("CredentialsRefused", {REFUSED: "5x90"}, "20- 80-"),
    ("CredentialsRefused", {REFUSED: "5x30 6x60"}, "29- 33+ 60-"),
    ("CredentialsRefused", {REFUSED: "5x30 0x10 1x60"}, "38- 45+ 70-"),
    ("CredentialsRefused", {REFUSED: "5x30 _x25 5x60"}, "20- 58- 64- 75-"),
    ("Unreachable", {ANSWERED: "100+1x120", SENT % "broken": "_x20 30x90"}, "22- 34+ 60-"),
    ("TokenContested", {REFRESHED: "_x20 8x120"}, "19- 25+ 90-"),
    ("TokenContested", {REFRESHED: "_x20 1x60 2x60"}, "25- 90-"),
    ("RateLimited", {ANSWERED: "100+1x120", SENT % "429": "_x20 30+10x90"}, "25- 55+"),
    ("JobsFail", {ENDED % "collected": "10x120", ENDED % "failed": "_x20 3x120"}, "30- 40+ 90-"),
    ("Rejects", {DOCUMENTS % "chunked": "_x20 70x120", DOCUMENTS % "rejected": "_x20 30x120"}, "19- 21+ 90-"),
    ("Rejects", {DOCUMENTS % "chunked": "_x20 97x120", DOCUMENTS % "rejected": "_x20 3x120"}, "21-"),
]


def test_alerts_fire_at_the_first_burst_and_resolve(tmp_path: Path) -> None:
    promtool = promtool_binary()
    if promtool is None:
        pytest.skip("promtool is in Debian's package prometheus")
    rules = {rule["alert"].removeprefix("Lucidworks"): rule for rule in RULES}
    assert {alert for alert, _, fires in COURSES if "+" in fires} == set(rules)

    def expected(rule: dict[str, Any], minute: str) -> dict[str, Any]:
        labels = rule["labels"] | ({"scope": SCOPE} if rule is rules["TokenContested"] else {})
        fired = [{"exp_labels": labels, "exp_annotations": rule["annotations"]}]
        fires = fired if minute[-1] == "+" else []
        return {"eval_time": f"{minute[:-1]}m", "alertname": rule["alert"], "exp_alerts": fires}

    tests = [
        {
            "interval": "1m",
            "input_series": [{"series": f"lucidworks_{one}", "values": series[one]} for one in series],
            "alert_rule_test": [expected(rules[alert], minute) for minute in fires.split()],
        }
        for alert, series, fires in COURSES
    ]
    file = tmp_path / "tests.yaml"
    file.write_text(
        json.dumps({"rule_files": [str(ALERTS_FILE)], "evaluation_interval": "1m", "tests": tests})
    )
    done = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_has_a_place_for_each_panel() -> None:
    places = [tuple(panel["gridPos"][side] for side in "xywh") for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {"${datasource}"}


# Compose


def test_images_are_pinned_to_the_tested_airflow() -> None:
    constraints = (ROOT / "constraints.txt").read_text()
    [airflow] = re.findall(r"^apache-airflow==(.+)$", constraints, re.M)
    build = SERVICES["airflow"]["build"]["dockerfile_inline"]
    assert set(re.findall(r"\d+\.\d+\.\d+", build)) == {airflow}
    assert (DEPLOY / SERVICES["airflow"]["build"]["context"]).resolve() == ROOT
    for service in SERVICES.values():
        assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+\.\d+(-pg\d+)?", service["image"])


def test_extras_of_the_image_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [named] = re.findall(r"provider\[([\w,]+)\]", SERVICES["airflow"]["build"]["dockerfile_inline"])
    assert set(named.split(",")) <= set(extras)


def test_the_environment_is_known_to_airflow_and_to_the_package() -> None:
    from airflow.configuration import conf

    environment = SERVICES["airflow"]["environment"]
    connection = json.loads(environment.pop("AIRFLOW_CONN_LUCIDWORKS_DEFAULT"))
    assert connection["conn_type"] == CONNECTION_TYPE
    assert set(connection["extra"]) <= set(CONN_FIELDS)
    settings = parse_settings(
        "lucidworks_default",
        login=connection["login"],
        password=connection["password"],
        host=connection.get("host"),
        extra=connection["extra"],
    )
    port = SERVICES["emulator"]["command"][4]
    assert settings.application_url == f"http://127.0.0.1:{port}"
    database = urlsplit(environment.pop("AIRFLOW_CONN_POSTGRES_DEFAULT"))
    server = SERVICES[database.hostname]["environment"]
    assert [database.username, database.password, database.path[1:]] == [
        server[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB")
    ]
    for name in environment:
        section, option = re.fullmatch(r"AIRFLOW__([A-Z]+)__([A-Z_]+)", name).groups()  # type: ignore[union-attr]
        assert conf.has_option(section.lower(), option.lower()), name


def test_the_emulator_takes_its_command_line() -> None:
    python, *command = SERVICES["emulator"]["command"]
    assert python == "python"
    command[command.index("--port") + 1] = "0"
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        try:
            assert any(line.startswith("URL:") for line in started.stdout)
        finally:
            started.terminate()


def test_mounted_files_exist() -> None:
    mounted = [one.split(":")[0] for service in SERVICES.values() for one in service.get("volumes", [])]
    assert mounted
    assert all((DEPLOY / one).exists() for one in mounted)


# Terraform


def test_the_connection_of_terraform_has_fields_of_the_form() -> None:
    [resource] = re.findall(r'resource "airflow_connection" "\w+" \{\n(.*?)^\}', TERRAFORM, re.M | re.S)
    [extra] = re.findall(r"extra = jsonencode\(\{\n(.*?)^  \}\)", resource, re.M | re.S)
    assert set(re.findall(r"^    (\w+)\s+=", extra, re.M)) <= set(CONN_FIELDS)
    assert re.findall(r'conn_type\s+= "(\w+)"', resource) == [CONNECTION_TYPE]
    arguments = set(re.findall(r"^  (\w+)\s+=", resource, re.M))
    # Arguments of the Terraform provider's documentation.
    assert arguments <= {
        *("connection_id", "conn_type", "description", "host", "login", "schema", "port", "password", "extra")
    }
    declared = set(re.findall(r'^variable "(\w+)"', TERRAFORM, re.M))
    assert set(re.findall(r"var\.(\w+)", resource)) == declared
