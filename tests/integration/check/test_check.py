# SPDX-License-Identifier: Apache-2.0
"""``python -m lucidworks_provider.check`` reports the emulator's settings, within its budget and without secrets."""

import io
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from lucidworks_provider import check
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator


@pytest.fixture
def ask(emulator: RunningEmulator, capsys: pytest.CaptureFixture[str]):
    """Asks with switches of the emulator; waits by its clock."""

    def ask(*arguments: str, code: int = 0, **switches: object) -> str:
        emulator.state.settings = emulator.state.settings.patched(switches)
        got = check.main(["--yes", *arguments], sleep=emulator.state.clock.advance)
        report = capsys.readouterr().out
        assert got == code, report
        assert report.startswith("# Check of Lucidworks AI")
        return report

    return ask


def change_connection(monkeypatch: pytest.MonkeyPatch, **changes: object) -> None:
    connection = json.loads(os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"])
    extra = connection["extra"] | changes.pop("extra", {})  # type: ignore[operator]
    extra = {name: value for name, value in extra.items() if value is not None}
    changed = connection | changes | {"extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(changed))


NO_FIELDS = "## Connection fields to change\n\nNone.\n"
NO_FACT = {"No answer: the response lacks the expected fields (200)."}


VARYING = re.compile(r"in [0-9.]+ s\.|below [0-9]+ requests|provider [0-9.]+")
MODEL = ("--generative-model", "llama-3-8b-instruct")
LIMITED = {"rate_limit": 10, "rate_window": 60.0}
NO_LIST = {"missing_endpoints": ["list-deployments"]}
NOT_FOUND = "HTTP 404, a JSON object with `error`, `message`, `status`"
READINGS = [
    ("token", {}, "The old token is invalid at once (401)"),
    ("token", {"dead_token": "403"}, "The old token is invalid at once (403)"),
    ("token", {"both_tokens_live": True}, "The old token stays valid"),
    ("token", {}, "The scopes are independent"),
    ("errors", {}, "The shape of OAuth 2.0"),
    ("errors", {}, NOT_FOUND),
    ("use-cases", {}, "`use_cases_path` is right."),
    ("use-cases", {"missing_endpoints": ["usecases"]}, "No known path exists (404)."),
    ("segments", {}, "Not asked; the question `use-cases` finds one"),
    ("predictions", {}, "The vector is `vector`, as assumed."),
    ("predictions", {"embedding_shape": "embedding"}, "`embedding`. **The vector is under another name."),
    ("predictions", {}, "Unknown options are refused (400)."),
    ("predictions", {"unknown_options": "ignore"}, "Unknown options are ignored."),
    ("predictions", {}, "A batch over the documented 32 items is refused (400)."),
    ("predictions", {"batch_overflow": "truncate"}, "A batch over 32 items is cut without an error."),
    ("jobs", {}, "polls: SUBMITTED, READY. **The result comes with the status READY"),
    ("jobs", {"pending_polls": 3}, "polls: SUBMITTED, SUBMITTED, SUBMITTED, READY."),
    ("jobs", {}, "A result is readable once; the second response says RETRIEVED"),
    ("jobs", {"retrieved": "payload"}, "A result is readable twice; the second response says RETRIEVED."),
    ("jobs", {"retrieved": "404"}, "A result is readable once; afterwards the id is unknown (404)."),
    ("jobs", {}, "The newer page's shape."),
    ("jobs", {"legacy_shape": True}, "The older page's shape."),
    ("jobs", {}, "Spans count characters, as assumed."),
    ("text-limit", {}, "A text over 1,000,000 bytes is refused (413)."),
    ("text-limit", {"oversize": "400"}, "A text over 1,000,000 bytes is refused (400)."),
    ("text-limit", {"oversize": "error-job"}, "A text over 1,000,000 bytes makes a job that fails."),
    ("chunk-limit", {}, "Chunks over the limit are cut without an error; the table holds"),
    ("chunk-limit", {"chunk_overflow": "error"}, "**A job over the limit fails.**"),
    ("models", {}, "`vectorSize`: str"),
    ("models", {"vector_size_text": False}, "`vectorSize`: int"),
    ("models", {}, "0 items; states: none. **`deployments_path` is right.**"),
    ("models", NO_LIST, "GET /customers/{customer_id}/ai/deployments`. Received: HTTP 404"),
    ("rate", {}, f"0 times 429; {NOT_FOUND}. **No limit below "),
    ("rate", LIMITED, "20 times 429; the first: HTTP 429"),
    ("rate", LIMITED, "A 429 comes with `Retry-After`."),
    ("rate", {**LIMITED, "retry_after": False}, "A 429 comes without `Retry-After`."),
    ("retention", {}, "A result is kept for 60 s at least."),
    ("retention", {"retention": 30.0}, "A result is no longer there after 60 s."),
]


@pytest.mark.parametrize(("question", "switches", "reading"), READINGS, ids=lambda one: str(one)[:60])
def test_the_report_says_how_the_service_is_set(
    ask, question: str, switches: dict[str, object], reading: str
) -> None:
    assert reading in ask("--only", question, **switches)


def test_each_question_has_a_reading() -> None:
    assert {question for question, _, _ in READINGS} == {one.name for one in check.QUESTIONS}


# Verdicts


BROKEN = {
    "html": (200, b"<html><body>Sign in</body></html>"),
    "empty": (200, b""),
    "another type": (200, b'"ok"'),
    "401": (401, b'{"message": "Unauthorized"}'),
    "403": (403, b'{"message": "Forbidden"}'),
    "429": (429, b'{"message": "Slow down"}'),
    "503": (503, b'{"message": "Unavailable"}'),
}


# The broken response is what these questions are about.
EXPECTED = {
    ("rate", "429"): {"A 429 comes without `Retry-After`."},
    ("errors", "401"): {"A shape that no page documents."},
    ("errors", "403"): {"A shape that no page documents."},
}


@pytest.fixture
def respond(monkeypatch: pytest.MonkeyPatch):
    """
    Replaces responses, except those to requests for tokens of a known scope.

    The given function returns the status and the body for a request; None leaves it to the emulator.
    """
    send = requests.adapters.HTTPAdapter.send

    def respond(respond_to: Callable[[requests.PreparedRequest], tuple[int, bytes] | None]) -> None:
        def sent(adapter, request, **options):
            token = "/oauth2/" in request.url and "unknown" not in request.url
            if token or (replaced := respond_to(request)) is None:
                return send(adapter, request, **options)
            response = requests.Response()
            response.status_code, body = replaced
            response.raw, response.url = io.BytesIO(body), request.url
            return response

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", sent)

    return respond


@pytest.fixture
def break_requests(respond):
    """Replaces the responses to all requests after some."""

    def break_requests(status: int, body: bytes, *, after: int = 0) -> None:
        count = itertools.count()
        respond(lambda request: None if next(count) < after else (status, body))

    return break_requests


@pytest.fixture
def fault(emulator: RunningEmulator):
    """Orders a fault."""
    return lambda **order: emulator.state.faults.inject(Fault.from_json(order))


@pytest.fixture
def reply(respond):
    """Replaces the response to requests whose URL has or ends with some text."""

    def reply(at: str, body: bytes, status: int = 200) -> None:
        respond(lambda request: (status, body) if f"{request.url}$".count(at) else None)

    return reply


def readings(report: str) -> set[str]:
    return {VARYING.sub("…", one) for one in re.findall(r"\*\*(.*?)\*\*", report)}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("question", [one.name for one in check.QUESTIONS])
def test_a_broken_response_proves_nothing(
    ask, break_requests, emulator: RunningEmulator, question: str, broken: str
) -> None:
    arguments = ("--only", question, "--budget", "200", *MODEL)
    proven = readings(ask(*arguments))
    for after in range(4):
        emulator.state.reset()
        break_requests(*BROKEN[broken], after=after)
        report = ask(*arguments)
        facts = {one for one in readings(report) if not one.startswith(("No answer", "Not asked"))}
        facts -= EXPECTED.get((question, broken), set())
        assert facts <= (proven if after else set()), report
        assert report.endswith(NO_FIELDS)


VERDICTS = {
    "ANSWERS": [(200, {})],
    "NO_ANSWER": [(200, []), (204, None), (302, {}), (400, None), (429, {}), (500, {})],
    "REFUSED": [(400, {}), (413, None), (422, {})],
    "NO_PERMISSION": [(401, {}), (403, None)],
    "NO_PATH": [(404, None), (405, {})],
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdicts(verdict: str) -> None:
    found = {check.verdict_of(status, body) for status, body in VERDICTS[verdict]}
    assert found == {check.Verdict[verdict]}


@pytest.mark.parametrize(
    ("kind", "advice"),
    [("503", ""), ("429", ""), ("html", ""), ("404", "Compare `auth_url` and `auth_server_id`")],
)
def test_only_a_refused_client_is_a_reason_to_compare_credentials(ask, fault, kind: str, advice: str) -> None:
    fault(kind=kind, match="token", times=5)
    report = ask("--only", "use-cases", code=1)
    assert "Ended early: The identity server issued no token" in report
    assert advice in report
    assert "Client Secret" not in report


@pytest.mark.parametrize(
    ("status", "reading"),
    [
        (200, "an invalid token is accepted, too."),
        (404, "an invalid token is accepted, too."),
        (503, "no usable response (503)."),
    ],
)
def test_a_host_that_does_not_refuse_an_invalid_token_says_nothing_about_tokens(
    ask, break_requests, status: int, reading: str
) -> None:
    break_requests(status, b"{}", after=0 if status != 503 else 1)
    assert readings(ask("--only", "token")) == {f"No answer: {reading}"}


UNLISTED = [b"{}", b'{"status": "ok"}', b'{"status": {"code": 0}}']


def test_a_list_of_use_cases_in_another_shape_is_described(ask, reply) -> None:
    reply("/ai/usecases", b'{"embedding": ["gte-small"]}')
    report = ask("--only", "use-cases")
    shape = "the response is an object with `embedding` (an array); expected a JSON array"
    assert f"List use cases: {shape}" in report
    assert readings(report) == NO_FACT
    assert "gte-small" not in report


@pytest.mark.parametrize("body", [*UNLISTED, b"[]", b"[1]"])
@pytest.mark.parametrize("path", ["/ai/usecases", "/ai/nowhere"])
def test_a_success_without_use_cases_proves_no_path(ask, reply, monkeypatch, body: bytes, path: str) -> None:
    change_connection(monkeypatch, extra={"use_cases_path": path})
    reply("/ai/usecases", body)
    report = ask("--only", "use-cases")
    assert readings(report) == NO_FACT
    assert report.endswith(NO_FIELDS)


@pytest.mark.parametrize("body", UNLISTED)
@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_a_success_without_a_list_proves_no_path_of_deployments(
    ask, reply, monkeypatch, body: bytes, path: str
) -> None:
    configured = f"/customers/{{customer_id}}/ai/deployments{path}"
    change_connection(monkeypatch, extra={"deployments_path": configured})
    reply("/ai/deployments$", body)
    report = ask("--only", "models")
    assert readings(report) >= NO_FACT
    assert "`deployments_path` is" not in report
    assert report.endswith(NO_FIELDS)


def test_an_object_with_a_list_of_deployments_proves_their_path(ask, reply) -> None:
    deployed = [{"id": name, "state": "DEPLOYED"} for name in "ab"]
    reply("/ai/deployments$", json.dumps({"total": 2, "data": deployed}).encode())
    assert "2 items; states: DEPLOYED. **`deployments_path` is right.**" in ask("--only", "models")


@pytest.mark.parametrize("question", ["text-limit", "chunk-limit"])
def test_a_limit_needs_a_small_job_with_a_result(ask, fault, question: str) -> None:
    fault(kind="error-job", match="submit", times=2)
    report = ask("--only", question, oversize="error-job", chunk_overflow="error")
    assert "**No answer: small jobs fail, too.**" in report


@pytest.mark.parametrize("question", ["text-limit", "chunk-limit"])
def test_a_refusal_of_every_job_proves_no_limit(ask, break_requests, question: str) -> None:
    break_requests(400, b'{"message": "no such option"}')
    assert readings(ask("--only", question)) == {"No answer: small jobs fail, too."}


def test_a_refused_number_of_chunks(ask, respond) -> None:
    refused = (422, b'{"message": "too many"}')
    respond(lambda request: refused if b"tent1599" in (request.body or b"") else None)
    assert "**A job over the limit is refused (422).**" in ask("--only", "chunk-limit")


@pytest.mark.parametrize("chunks", [5, "text", {"a": 1}, None])
def test_values_of_other_types_prove_nothing(ask, break_requests, chunks: object) -> None:
    data = [{"chunks": chunks, "spans": 5, "vectors": []}]
    body = {"status": "READY", "chunkingId": "another", "chunkedData": data}
    break_requests(200, json.dumps(body).encode())
    report = ask("--only", "jobs", "chunk-limit")
    assert "0 chunks. **No answer: the response lacks the expected fields (200).**" in report


# Connection fields


def test_a_refused_path_is_not_another_one(ask, fault, monkeypatch) -> None:
    """The documented path would answer, but a 403 does not prove that the connection's is wrong."""
    change_connection(monkeypatch, extra={"use_cases_path": "/ai/usecase"})
    fault(kind="403", match="usecases", times=1)
    report = ask("--only", "use-cases")
    assert "No answer: no permission (403)." in report
    assert report.endswith(NO_FIELDS)


@pytest.mark.parametrize(
    ("question", "field", "right"),
    [
        ("models", "deployments_path", "/customers/{customer_id}/ai/deployments"),
        ("use-cases", "use_cases_path", "/ai/usecases"),
    ],
)
def test_another_path_is_a_field_to_change(ask, monkeypatch, question: str, field: str, right: str) -> None:
    wrong = f"{right.rpartition('/')[0]}/nowhere"
    change_connection(monkeypatch, extra={field: wrong})
    report = ask("--only", question)
    assert f"`{field}` is wrong" in report
    assert report.endswith(f"## Connection fields to change\n\n* `{field}`: `{right}`\n")


def test_another_segment_of_the_rewriter_is_a_field_to_change(ask, emulator, monkeypatch) -> None:
    segments = {"ner": "entities", "standalone-query-rewriter": "standalone_query_rewriter"}
    change_connection(monkeypatch, extra={"use_case_segments": segments})
    report = ask("--only", "segments", *MODEL, strict_segments=True)
    assert "`use_case_segments` is wrong; the segment is `standalone-query-rewriter`." in report
    segments["standalone-query-rewriter"] = "standalone-query-rewriter"
    assert report.endswith(f"* `use_case_segments`: `{json.dumps(segments)}`\n")
    asked = [one.use_case for one in emulator.state.log if one.endpoint == "predict"]
    assert asked == ["standalone_query_rewriter", "standalone-query-rewriter"]
    change_connection(monkeypatch, extra={"use_case_segments": segments})
    assert "`use_case_segments` is right." in ask("--only", "segments", *MODEL)


def test_an_unknown_model_gives_no_answer_about_segments(ask) -> None:
    report = ask("--only", "segments", "--generative-model", "no-model")
    assert "for `passthrough`: HTTP 404" in report
    assert "No answer: no such path" in report


def no_rewriter(request: requests.PreparedRequest) -> tuple[int, bytes] | None:
    return (404, b"{}") if re.search("/standalone[-_]query[-_]rewriter/", str(request.url)) else None


def test_no_segment_of_the_rewriter_exists(ask, respond) -> None:
    respond(no_rewriter)
    assert "**No known segment exists (404).**" in ask("--only", "use-cases", "segments")


def served(passthrough: str, rewriter: str) -> tuple[int, bytes]:
    """A list of use cases, with a model of each."""
    models = {"passthrough": passthrough, "standalone_query_rewriter": rewriter}
    return 200, json.dumps([{"useCase": name, "models": [one]} for name, one in models.items()]).encode()


@pytest.mark.parametrize("questions", [("segments",), ("use-cases", "segments")])
def test_a_model_that_is_not_listed_for_the_rewriter_proves_no_segment_wrong(
    ask, respond, questions: tuple[str, ...]
) -> None:
    listed = served(MODEL[1], "another")
    respond(lambda request: listed if "/usecases" in request.url else no_rewriter(request))
    assert "**No answer: the model may not serve the query rewriter.**" in ask("--only", *questions, *MODEL)


def test_the_segment_is_tested_with_a_model_that_is_listed_for_the_rewriter(ask, reply, emulator) -> None:
    reply("/usecases", served("another", MODEL[1])[1])
    assert "`use_case_segments` is right." in ask("--only", "use-cases", "segments")
    assert {one.model for one in emulator.state.log if one.endpoint == "predict"} <= {MODEL[1], None}


def test_segments_are_not_read_from_a_service_that_checks_the_batch_first(ask, break_requests) -> None:
    break_requests(400, b'{"message": "batch: empty"}')
    report = ask("--only", "segments", *MODEL)
    assert "No answer: the service checks the batch first." in report


# Arguments


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        *(
            ((option, value), f"argument {option}: '{value}' is not a finite number above 0")
            for option in ("--rate", "--budget", "--retention")
            for value in ("-3", "0", "nan", "inf", "1e300", "many")
        ),
        (("--rate", "1.5"), "argument --rate: '1.5' is not a whole number"),
        (("--budget", "1.5"), "argument --budget: '1.5' is not a whole number"),
        (("--only", "rate", "--skip", "rate"), "--only and --skip leave no question"),
    ],
)
def test_arguments_that_are_refused(
    emulator: RunningEmulator, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        check.main(["--yes", *arguments])
    assert words in capsys.readouterr().err
    assert len(emulator.state.log) == 0


# The run


def test_several_times_of_retention(ask) -> None:
    report = ask("--only", "retention", "--retention", "60", "600", retention=300.0)
    assert "A result is kept for 60 s at least." in report
    assert "A result is no longer there after 600 s." in report


PAGE = (Path(check.__file__).parents[1] / "docs" / "check.md").read_text()


def test_the_page_shows_the_report_of_the_emulator(ask) -> None:
    [shown] = re.findall(r"^```text\n(.*?)^```", PAGE, re.M | re.S)
    report = ask("--only", "token", "use-cases", "segments", "jobs", "rate")
    assert VARYING.sub("…", report) == VARYING.sub("…", shown)


def test_the_page_has_the_command_and_the_numbers(ask) -> None:
    assert re.findall(r"^\$ (.*)", PAGE, re.M) == ["python -m lucidworks_provider.check > report.md"]
    rows = re.findall(r"^\| `([a-z-]+)` \|.*?\| ([0-9]+)(?: for each time)? \|", PAGE, re.M)
    assert rows == [(one.name, str(one.requests)) for one in check.QUESTIONS]
    assert f"Together {sum(one.requests for one in check.QUESTIONS) + 2} requests," in PAGE


def test_nothing_of_the_account_is_in_the_report(ask, emulator: RunningEmulator) -> None:
    report = ask()
    [(client_id, secret)] = emulator.state.settings.clients.items()
    hidden = [client_id, secret, emulator.state.settings.customer_id, emulator.url, "eyJ", "emulated-app"]
    hidden += [job.job_id for job in emulator.state.jobs.all()]
    assert [one for one in hidden if one in report] == []
    assert "None." in report


def test_the_requests_are_those_that_were_announced(
    emulator: RunningEmulator, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main(["--yes"], sleep=emulator.state.clock.advance) == 0
    report, plan = capsys.readouterr()
    sent = len(emulator.state.log)
    announced = int(plan.split(" requests at most")[0])
    assert f"{sent} requests of a budget of {announced}." in report
    assert sent <= announced


def test_the_texts_are_the_commands_own_and_nothing_is_changed(ask, emulator: RunningEmulator) -> None:
    ask()
    changing = {one.endpoint for one in emulator.state.log if one.method != "GET"}
    assert changing == {"token", "predict", "submit", "submit-prediction"}


def test_keep_token_issues_one_token_for_each_scope(ask, emulator: RunningEmulator) -> None:
    report = ask("--keep-token")
    assert "Not asked." in report
    assert emulator.state.log.issued == {"machinelearning.predict": 1, "machinelearning.model": 1}


def test_keep_token_needs_a_process_that_reaches_it(emulator, monkeypatch, capsys) -> None:
    change_connection(monkeypatch, extra={"share_via": "airflow"})
    assert check.main(["--yes", "--keep-token", "--only", "use-cases"]) == 1
    out, err = capsys.readouterr()
    assert "Ended early: It ended with TokenStoreError." in out
    assert "cannot reach Airflow" in err
    assert len(emulator.state.log) == 0


def test_the_budget_ends_it_with_what_was_found(ask, emulator: RunningEmulator) -> None:
    report = ask("--budget", "9", code=1)
    assert "Ended early: The budget of 9 requests is spent." in report
    assert "The old token is invalid at once" in report
    assert len(emulator.state.log) == 9


def test_a_wrong_secret(ask, monkeypatch, emulator: RunningEmulator) -> None:
    change_connection(monkeypatch, password="wrong-secret")
    report = ask(code=1)
    assert "Ended early: The identity server issued no token for machinelearning.predict: HTTP 401" in report
    assert "wrong-secret" not in report
    assert len(emulator.state.log) == 1


def test_without_a_customer_id(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    change_connection(monkeypatch, extra={"customer_id": None})
    assert "Not asked; the Models API needs it." in ask("--only", "token", "models")


def test_a_deployment_shows_its_state(ask, emulator: RunningEmulator) -> None:
    from lucidworks_provider.client.model_specs import DeploymentSpec
    from lucidworks_provider.client.models import create_deployment, list_models
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    hook = LucidworksHook()
    hook.call(create_deployment(DeploymentSpec(hook.call(list_models())[0].id, "us-southcarolina")))
    assert "states: DEPLOY" in ask("--only", "models")


def test_a_429_is_repeated_after_its_retry_after(ask, fault, emulator: RunningEmulator) -> None:
    fault(kind="429", match="usecases", times=2, retry_after=5)
    before = emulator.state.clock()
    assert "`use_cases_path` is right." in ask("--only", "use-cases")
    assert emulator.state.clock() - before >= 10


def test_ctrl_c_prints_what_was_found(emulator: RunningEmulator, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    assert check.main(["--yes", "--only", "token", "jobs"], sleep=interrupted) == 130
    report = capsys.readouterr().out
    assert "Ended early: It was interrupted." in report
    assert "The old token is invalid at once" in report


def test_a_host_that_does_not_answer(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    change_connection(monkeypatch, extra={"application_url": "http://127.0.0.1:9"})
    report = ask("--only", "use-cases", "predictions", "jobs", code=1)
    assert report.count("no response (ConnectionError)") == 2
    assert "Ended early: Two questions in a row got no response." in report
    assert "127.0.0.1" not in report


@pytest.mark.parametrize("said", ["n", ""])
def test_nothing_is_sent_without_a_yes(emulator, monkeypatch, capsys, said: str) -> None:
    monkeypatch.setattr("builtins.input", lambda: said)
    assert check.main(["--only", "rate"]) == 1
    report, prompt = capsys.readouterr()
    assert prompt.endswith("Send them? [y/N] Nothing was sent.\n")
    assert report == ""
    assert len(emulator.state.log) == 0


def test_a_connection_that_cannot_be_used(emulator, monkeypatch, capsys) -> None:
    change_connection(monkeypatch, login="")
    assert check.main(["--yes"]) == 1
    assert "login (Client ID) is missing" in capsys.readouterr().err
    assert check.main(["--yes", "--conn-id", "no_such_connection"]) == 2
    undefined = "The connection 'no_such_connection' is not defined; --conn-id names another.\n"
    assert capsys.readouterr() == ("", undefined)


def test_an_error_of_a_question_leaves_the_report(emulator, monkeypatch, capsys) -> None:
    [secret] = emulator.state.settings.clients.values()

    def broken(service: object) -> Iterator[check.Finding]:
        yield check.Finding("a first request", "HTTP 200", "A fact.")
        raise TypeError(f"in {secret}")

    questions = [one._replace(ask=broken) if one.name == "errors" else one for one in check.QUESTIONS]
    monkeypatch.setattr(check, "QUESTIONS", questions)
    assert check.main(["--yes", "--only", "errors", "rate"]) == 1
    report, noted = capsys.readouterr()
    assert "Ended early: It ended with TypeError.\n" in report
    assert "**A fact.**" in report
    assert noted.endswith("\nin ***\n")


def test_a_host_that_contains_the_client_id_is_masked_as_a_whole(emulator, monkeypatch, capsys) -> None:
    found = [check.Finding(emulator.url, "127.0.0.1", "A fact.")]
    change_connection(monkeypatch, login="127.0.0.1")
    monkeypatch.setattr(check, "QUESTIONS", [check.QUESTIONS[1]._replace(ask=lambda _: iter(found))])
    assert check.main(["--yes"]) == 0
    assert "* Tested: ***. Received: ***. **A fact.**" in capsys.readouterr().out


def test_a_redirected_output_has_the_report_alone(emulator: RunningEmulator) -> None:
    command = [sys.executable, "-m", "lucidworks_provider.check", "--only", "use-cases"]
    env = {**os.environ, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(command, input="y\n", capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# Check of Lucidworks AI")
    assert "`use_cases_path` is right." in done.stdout
    assert "6 requests at most" in done.stderr
    assert "Send them? [y/N]" in done.stderr
