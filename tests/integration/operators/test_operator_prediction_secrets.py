# SPDX-License-Identifier: Apache-2.0
"""
Third parties' keys reach the service, and nothing else: no log, no XCom, no row of Airflow's database, no file,
no exception.
"""

import base64
import copy
import json
import logging
import pickle
import traceback
import warnings
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from operator_service import (
    Scripted,
    Service,
    by_jobs,
    direct,
    new_context,
    rows_of,
    serialized,
    through_triggers,
    wait,
)

from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.errors import ConfigurationError, InputError, JobFailedError, LucidworksError
from lucidworks_provider.hooks import third_party
from lucidworks_provider.jobs.decisions import JobsOutcome
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

KEY = "sk-canary-0123456789abcdef"
ACCOUNT = {"type": "service_account", "private_key": "-----BEGIN-----\nc4nary", "project_id": "p"}
ENCODED = base64.b64encode(json.dumps(ACCOUNT).encode()).decode()
LITERAL = {"apiKey": KEY, "temperature": 0.5}
TEXTS = ["One.", "Two.", "Three."]


def harmless(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Answers everything, jobs included, and quotes nothing."""
    if "/async-prediction/" in path and body:
        return 200, {"predictionId": "job", "status": "SUBMITTED"}
    count = len(body.get("batch", [])) or 3
    return 200, {"status": "READY", "predictions": [{"response": "r", "modelConfig": 1}] * count}


def quoting(status: int, *, encoded: bool = False) -> Callable[[str, dict[str, Any]], tuple[int, Any]]:
    """Refuses, and quotes what it was sent."""

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        key = (body.get("modelConfig") or {}).get("apiKey", "")
        told = f"Incorrect API key provided: {key}. You can find yours somewhere."
        return status, told.encode() if encoded else {"message": told, "input": body}

    return reply


@pytest.fixture
def service(service: Service) -> Service:
    connect_key(service, password=KEY)
    return service


@pytest.fixture
def server(service: Service) -> Scripted:
    return service.answers(harmless)


@pytest.fixture(params=["direct", "jobs"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """Makes an operator of either kind, which uses the key of the connection."""
    path = {"path": tmp_path / "p.jsonl"} if request.param == "jobs" else {}
    return lambda: {"direct": direct, "jobs": by_jobs}[request.param](TEXTS, **FROM_CONNECTION, **path)


def connect_key(service: Service, conn_id: str = "openai", **parts: Any) -> None:
    service.env.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps({"conn_type": "generic"} | parts))


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], str]:
    """All that was logged at DEBUG, by any logger, with arguments and tracebacks."""
    caplog.set_level(logging.DEBUG)
    for name in list(logging.root.manager.loggerDict):
        if isinstance(logger := logging.root.manager.loggerDict[name], logging.Logger):
            monkeypatch.setattr(logger, "level", logging.DEBUG)

    def shown() -> str:
        rows = [
            f"{record.getMessage()} {record.args!r} {record.exc_text or ''} {record.exc_info!r}"
            for record in caplog.records
        ]
        return "\n".join([*rows, *capsys.readouterr()])

    return shown


def files_of(path: Path) -> str:
    return "".join(str(p) + p.read_bytes().decode("latin-1") for p in path.rglob("*") if p.is_file())


def fields_of(operator: Any) -> str:
    return repr({name: getattr(operator, name) for name in operator.template_fields})


def shown_by(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


# Where the key comes from

FROM_CONNECTION = {"api_key_conn_id": "openai"}


@pytest.mark.parametrize(
    ("parts", "key"),
    [
        ({"password": KEY}, KEY),
        ({"password": f" {KEY}\n"}, KEY),
        ({"extra": {"api_key": KEY}}, KEY),
        ({"extra": {"openai_api_key": KEY}}, KEY),
        ({"password": "", "extra": {"api_key": "", "key": KEY}}, KEY),
        ({"extra": {"keyfile_dict": ACCOUNT}}, ENCODED),
        ({"extra": {"keyfile_dict": json.dumps(ACCOUNT)}}, ENCODED),
        ({"extra": {"api_key": " ", "keyfile_dict": ACCOUNT}}, ENCODED),
        ({"extra": {"extra__google_cloud_platform__keyfile_dict": json.dumps(ACCOUNT)}}, ENCODED),
        ({"password": KEY, "extra": {"keyfile_dict": ACCOUNT}}, KEY),
    ],
)
def test_the_key_of_a_connection_is_sent(
    service: Service, server: Scripted, parts: dict[str, Any], key: str
) -> None:
    connect_key(service, **parts)
    direct(TEXTS, model_config={"topP": 1}, **FROM_CONNECTION).execute(new_context())
    assert [one["modelConfig"] for one in server.heard] == [{"topP": 1, "apiKey": key}]


@pytest.mark.parametrize(
    "parts", [{}, {"password": " "}, {"extra": {"keyfile_dict": {}}}, {"extra": {"api_key": ""}}]
)
def test_a_connection_without_a_key_is_named_before_anything_is_sent(
    service: Service, server: Scripted, tmp_path: Path, made: Any, parts: dict[str, Any]
) -> None:
    connect_key(service, **parts)
    with pytest.raises(ConfigurationError, match=r"'openai'.*no key.*password"):
        made().execute(new_context())
    assert (server.heard, service.nothing_sent(), list(tmp_path.iterdir())) == ([], True, [])


def test_a_service_account_is_given_as_it_is_for_training(service: Service) -> None:
    connect_key(service, extra={"keyfile_dict": ACCOUNT})
    assert json.loads(third_party.service_account_key("openai")) == ACCOUNT
    assert "c4nary" not in repr(third_party.service_account_key("openai"))
    assert ENCODED not in repr(third_party.api_key("openai"))


# Nothing shows it

SOURCES: dict[str, tuple[dict[str, Any], str]] = {
    "a connection's password": (FROM_CONNECTION, KEY),
    "a service account": ({"api_key_conn_id": "google"}, ENCODED),
    "a literal": ({"model_config": LITERAL}, KEY),
    "literal JSON": ({"model_config": json.dumps(LITERAL)}, KEY),
    "a literal beside a template": (
        {"model_config": '{"apiKey": "KEY", "temperature": {{ params.heat }}}'.replace("KEY", KEY)},
        KEY,
    ),
    "a rendered value": ({"model_config": {"apiKey": "{{ params.key }}", "topP": 1}}, KEY),
    "rendered JSON": ({"model_config": "{{ params.config | tojson }}"}, KEY),
    "JSON with a rendered value": ({"model_config": '{"apiKey": "{{ params.key }}"}'}, KEY),
}
RENDERED = {"params": {"key": KEY, "config": LITERAL, "heat": 1}}
pytestmark = pytest.mark.filterwarnings("ignore:model_config was given a key")


@pytest.mark.parametrize(
    ("source", "form"),
    [(source, form) for source in SOURCES for form in ("older.jsonl", "triggers")]
    + [("a rendered value", form) for form in ("inline", "p.jsonl", "p.parquet", "jobs")],
)
def test_a_key_is_sent_and_nowhere_else(
    service: Service,
    server: Scripted,
    logged: Callable[[], str],
    tmp_path: Path,
    source: str,
    form: str,
) -> None:
    arguments, key = SOURCES[source]
    connect_key(service, "google", extra={"keyfile_dict": ACCOUNT})
    # Before Airflow 3.3 a record stays on storage.
    context = new_context(state_store=form != "older.jsonl") | RENDERED
    shown: list[str] = []

    def make() -> Any:
        if form in {"jobs", "triggers"}:
            one: Any = by_jobs(TEXTS, tmp_path / "j.jsonl", deferrable=form == "triggers", **arguments)
        else:
            path = None if form == "inline" else str(tmp_path / form)
            one = direct(TEXTS, result_path=path, **arguments)
        shown.append(repr(one) + str(one) + fields_of(one))
        one.render_template_fields(context)
        shown.append(repr(one) + fields_of(one))
        return one

    if form == "triggers":
        with pytest.raises(TaskDeferred) as deferred:
            make().execute(context)
        event = wait(deferred.value)
        shown += [repr(deferred.value.trigger.serialize()), repr(deferred.value.kwargs), repr(event)]
        shown.append(files_of(tmp_path))  # the record and the answers, as they wait
        result = make().execute_complete(context, event, **deferred.value.kwargs)
    else:
        result = make().execute(context)
    assert {one["modelConfig"]["apiKey"] for one in server.heard} == {key}
    store = context["task_state_store"].values if "task_state_store" in context else {}
    shown += [json.dumps(result), files_of(tmp_path), json.dumps(store), logged()]
    assert ("record.json" in files_of(tmp_path)) == (form == "older.jsonl")
    assert [text for text in shown for secret in (key, "c4nary", ENCODED) if secret in text] == []


def test_a_key_is_in_no_fingerprint_so_that_a_rotated_one_pays_for_nothing_again(
    service: Service, server: Scripted, tmp_path: Path
) -> None:
    context = new_context()
    with pytest.raises(TaskDeferred) as deferred:
        by_jobs(TEXTS, tmp_path / "p.jsonl", deferrable=True, **FROM_CONNECTION).execute(context)
    connect_key(service, password="sk-rotated-0123456789abcdef")
    event = wait(deferred.value)
    by_jobs(TEXTS, tmp_path / "p.jsonl", deferrable=True, **FROM_CONNECTION).execute_complete(
        context, event, **deferred.value.kwargs
    )
    assert len(server.heard) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_no_key_is_in_the_serialized_dag(service: Service, source: str) -> None:
    arguments, key = SOURCES[source]
    common: dict[str, Any] = {"use_case": "rag", "model_id": "gpt-4o", **arguments}

    def texts(text: str) -> list[str]:
        return [text]

    with DAG("d", schedule=None) as dag:
        direct(TEXTS, **arguments, params=RENDERED["params"] if key not in repr(RENDERED) else {})
        by_jobs(TEXTS, "/x/p.jsonl", **arguments, task_id="jobs")
        LucidworksPredictionOperator.partial(task_id="mapped", **common).expand(inputs=[["a"], ["b"]])
        lucidworks_predict_task(texts, **common).expand(text=["a", "b"])
    stored = serialized(dag)
    assert key not in stored
    if "model_config" in arguments and "literal" in source:
        assert stored.count("***") == 4


def test_a_literal_is_warned_about(service: Service) -> None:
    for given in (LITERAL, json.dumps(LITERAL), {"serviceAccountKey": KEY}):
        with pytest.warns(UserWarning, match="model_config was given a key.*api_key_conn_id") as caught:
            direct(TEXTS, model_config=given)
        assert KEY not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for harmless_one in (None, {}, {"temperature": 1}, {"apiKey": "{{ params.key }}"}, "{{ params.c }}"):
            one = direct(TEXTS, model_config=harmless_one)
            assert one.model_config == harmless_one
        one.render_template_fields(new_context() | {"params": {"c": "{}"}})


@pytest.mark.parametrize(
    "given",
    [
        "{{ params.config }}",  # as Python writes a dictionary, not as JSON
        f"{json.dumps(LITERAL)[:-1]}, }}",
        json.dumps(["apiKey", LITERAL]),
    ],
)
def test_what_is_no_json_object_is_refused_without_its_key(
    service: Service, server: Scripted, given: str
) -> None:
    one = direct(TEXTS, model_config=given)
    one.render_template_fields(new_context() | RENDERED)
    assert KEY not in fields_of(one)
    with pytest.raises(InputError, match=r"model_config.*not a JSON object") as caught:
        one.execute(new_context())
    assert KEY not in shown_by(caught.value)
    assert server.heard == []


@pytest.mark.parametrize("name", ["api_key", "apikey"])
def test_a_key_under_a_misspelt_name_is_refused_unseen(service: Service, server: Scripted, name: str) -> None:
    one = direct(TEXTS, model_config={name: KEY})
    assert KEY not in fields_of(one)
    with pytest.raises(InputError, match="Did you mean 'apiKey'") as caught:
        one.execute(new_context())
    assert KEY not in shown_by(caught.value)


# A service that quotes it


@pytest.mark.parametrize("encoded", [False, True], ids=["JSON", "text"])
@pytest.mark.parametrize("status", [200, 302, 400, 401, 403, 404, 429, 500])
def test_an_exception_does_not_pass_on_what_the_service_quotes(
    service: Service, logged: Callable[[], str], tmp_path: Path, made: Any, status: int, encoded: bool
) -> None:
    server = service.answers(quoting(status, encoded=encoded))
    with pytest.raises(LucidworksError) as caught:
        made().execute(new_context())
    assert KEY in json.dumps(server.heard)
    for text in (shown_by(caught.value), logged(), files_of(tmp_path)):
        assert KEY not in text


def test_a_result_is_what_the_service_sent_whatever_it_quotes(service: Service, tmp_path: Path) -> None:
    keys: list[str] = []

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        keys.append((body.get("modelConfig") or {"apiKey": KEY})["apiKey"])
        if "/async-prediction/" in path and body:
            return 200, {"predictionId": "job", "status": "SUBMITTED"}
        return 200, {"status": "READY", "predictions": [{"response": f"With {keys[0]}.", "config": keys}] * 3}

    service.answers(reply)
    rows = direct(TEXTS, **FROM_CONNECTION).execute(new_context())
    direct(TEXTS, result_path=str(tmp_path / "p.jsonl"), **FROM_CONNECTION).execute(new_context())
    by_jobs(TEXTS, tmp_path / "j.jsonl", **FROM_CONNECTION).execute(new_context())
    assert set(keys) == {KEY}
    for found in (rows, rows_of(tmp_path / "p.jsonl"), rows_of(tmp_path / "j.jsonl")):
        assert [row["response"] for row in found] == [f"With {KEY}."] * 3


def test_a_jobs_reason_does_not_pass_on_what_the_service_quotes(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[dict[str, Any]] = []
    as_json = JobsOutcome.as_json
    monkeypatch.setattr(JobsOutcome, "as_json", lambda self: events.append(as_json(self)) or events[-1])

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if body:
            return 200, {"predictionId": "job", "status": "SUBMITTED"}
        return 200, {"status": "ERROR", "message": f"Nobody knows {KEY}."}

    service.answers(reply)
    make = lambda: by_jobs(TEXTS, tmp_path / "p.jsonl", deferrable=True, **FROM_CONNECTION)  # noqa: E731
    with pytest.raises(JobFailedError, match=r"Nobody knows \*\*\*") as caught:
        through_triggers(make, new_context())
    assert KEY not in shown_by(caught.value) + files_of(tmp_path)
    # Airflow logs and stores these.
    assert events
    assert KEY not in json.dumps(events)


PRIVATE = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC\nb3JkLW9mLWEta2V5LWZpbGUtMDEy\nc2hvcnQ="
KEY_FILE = {
    "type": "service_account",
    "project_id": "acme-search",
    "private_key_id": "0a1b2c3d4e",
    "private_key": f"-----BEGIN PRIVATE KEY-----\n{PRIVATE}\n-----END PRIVATE KEY-----\n",
    "client_email": "reader@acme-search.example",
}
GOOGLE = base64.b64encode(json.dumps(KEY_FILE).encode()).decode()
SHORT, AZURE = "abcd1234", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"
# A key, and what a service quotes of it.
QUOTED: dict[str, tuple[str, str]] = {
    "a short key": (SHORT, SHORT),
    "a short key in JSON": (SHORT, json.dumps({"x": SHORT})),
    "with stars": (KEY, "sk-canary*********cdef"),
    "with an ellipsis and stars": (KEY, "sk-\N{HORIZONTAL ELLIPSIS}***cdef"),
    "with dots": (KEY, "sk-can...cdef"),
    "of another kind with dots": (AZURE, "0f1e...e1f0"),
    "a key file": (GOOGLE, json.dumps(KEY_FILE)),
    "a private key": (GOOGLE, KEY_FILE["private_key"]),
    "a line of a private key": (GOOGLE, PRIVATE.splitlines()[1]),
    "an id of a private key": (GOOGLE, KEY_FILE["private_key_id"]),
    "an address": (GOOGLE, KEY_FILE["client_email"]),
}


@pytest.mark.parametrize(("quoted", "status"), list(zip(QUOTED, cycle([200, 400, 500]))))
def test_a_part_or_an_abbreviation_of_a_key_is_blanked_in_errors(
    service: Service, logged: Callable[[], str], tmp_path: Path, made: Any, quoted: str, status: int
) -> None:
    key, said = QUOTED[quoted]
    connect_key(service, password=key)
    # A message is cut; so it may end within the key.
    for message in (f"Wrong key {said}.", "x" * 290 + said):
        body = {"message": message, "status": "ERROR"}
        service.answers(lambda path, sent, body=body: (status, body))
        with pytest.raises(LucidworksError) as caught:
            made().execute(new_context())
        shown = shown_by(caught.value) + logged() + files_of(tmp_path)
        for part in (said, json.dumps(said)[1:-1], said[:12], said[-12:]):
            assert part not in shown
        assert "***" in str(caught.value)


def test_a_key_that_polls_quote_is_not_logged(
    service: Service, logged: Callable[[], str], tmp_path: Path
) -> None:
    """A poll is sent without the key."""
    key = "4f1c2e9a-77bb-4c1d-9d11-2c4f0a7be111"
    connect_key(service, password=key)
    said = {"message": f"OpenAI refused {key}"}
    job = {"predictionId": "j", "status": "ERROR", **said}
    polls = iter([(503, said), (200, f"refused {key}".encode()), (404, said)])
    service.answers(
        lambda path, sent: (
            (200, {"predictionId": "j", "status": "SUBMITTED"}) if sent else next(polls, (200, job))
        )
    )
    with pytest.raises(LucidworksError) as caught:
        by_jobs(TEXTS, **FROM_CONNECTION, path=tmp_path / "p.jsonl").execute(new_context())
    shown = shown_by(caught.value) + logged() + files_of(tmp_path)
    assert "no response: " in shown
    assert "it starts: " in shown
    assert "polling continues" in shown
    assert key not in shown


@pytest.mark.parametrize("key", [SHORT, KEY, AZURE])
def test_the_emulator_quotes_keys(service: Service, key: str) -> None:
    connect_key(service, password=key)
    service.fault("predict", "quoted-keys")
    with pytest.raises(
        LucidworksError, match=r"Incorrect API key provided: \*\*\* \(\*\*\*, \*\*\*\)\."
    ) as caught:
        direct(TEXTS, **FROM_CONNECTION).execute(new_context())
    assert key not in shown_by(caught.value)
    assert key[-4:] not in str(caught.value)


@pytest.mark.parametrize(
    "config",
    [
        {"azureApiKey": KEY},
        {"anthropicKey": SHORT},
        {"token": SHORT, "topK": 1},
        {"credentials": {"type": "x", "private_key": KEY}},
        {"azure": {"deployment": "d", "api-key": KEY}, "keys": [{"token": SHORT}, {"token": KEY}]},
    ],
)
@pytest.mark.parametrize("text", [False, True], ids=["dictionary", "JSON"])
def test_a_key_under_any_name_is_sent_and_not_shown(
    service: Service, server: Scripted, config: dict[str, Any], text: bool
) -> None:
    given = json.dumps(config) if text else config
    with DAG("d", schedule=None) as dag:
        one = direct(TEXTS, model_config=given)
        LucidworksPredictionOperator.partial(
            task_id="mapped", use_case="rag", model_id="gpt-4o", model_config=given
        ).expand(inputs=[["a"]])
    for shown in (repr(one), fields_of(one), serialized(dag)):
        assert KEY not in shown
        assert SHORT not in shown
    one.render_template_fields(new_context())
    one.execute(new_context())
    assert [request["modelConfig"] for request in server.heard] == [config]


# Copies


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, copy.copy, lambda one: pickle.loads(pickle.dumps(one))],  # noqa: S301
    ids=["deepcopy", "copy", "pickle"],
)
@pytest.mark.parametrize("source", ["a literal", "a rendered value", "a connection's password"])
def test_a_copy_of_the_operator_has_the_key(
    service: Service, server: Scripted, tmp_path: Path, source: str, copied: Callable[[Any], Any]
) -> None:
    arguments, _ = SOURCES[source]
    for original in (direct(TEXTS, **arguments), by_jobs(TEXTS, tmp_path / "p.jsonl", **arguments)):
        one = copied(original)
        one.render_template_fields(new_context() | RENDERED)
        assert KEY not in repr(one) + fields_of(one)
        one.execute(new_context())
    assert {request["modelConfig"]["apiKey"] for request in server.heard} == {KEY}


def context_of(dag: DAG, map_index: int) -> dict[str, Any]:
    context = new_context() | {"dag": dag, "dag_run": SimpleNamespace(conf={})}
    context["ti"].map_index = map_index
    return context


@pytest.mark.parametrize("source", SOURCES)
def test_a_mapped_operator_has_the_key_and_does_not_show_it(
    service: Service, server: Scripted, source: str
) -> None:
    arguments, key = SOURCES[source]
    connect_key(service, "google", extra={"keyfile_dict": ACCOUNT})
    with DAG("d", schedule=None, params=RENDERED["params"]) as dag:
        mapped = LucidworksPredictionOperator.partial(
            task_id="mapped", use_case="passthrough", model_id="gpt-4o", batch_size=2, **arguments
        ).expand(inputs=[["a"], ["b", "c", "d"]])
    context = context_of(dag, 1)
    mapped.render_template_fields(context)
    one = context["task"]
    assert (type(one), one.inputs) == (LucidworksPredictionOperator, ["b", "c", "d"])
    assert key not in repr(one) + fields_of(one) + repr(mapped)
    rows = one.execute(context)
    assert [row["index"] for row in rows] == [0, 1, 2]
    assert [request["modelConfig"]["apiKey"] for request in server.heard] == [key, key]


def test_a_mapped_operator_over_configurations(service: Service, server: Scripted) -> None:
    with DAG("d", schedule=None, params=RENDERED["params"]) as dag:
        mapped = LucidworksPredictionOperator.partial(
            task_id="mapped", use_case="passthrough", model_id="gpt-4o", inputs=["a"]
        ).expand(model_config=[{"apiKey": "{{ params.key }}"}, '{"apiKey": "{{ params.key }}"}'])
    for index in (0, 1):
        context = context_of(dag, index)
        mapped.render_template_fields(context)
        assert KEY not in fields_of(context["task"])
        context["task"].execute(context)
    assert [request["modelConfig"] for request in server.heard] == [{"apiKey": KEY}] * 2
