# SPDX-License-Identifier: Apache-2.0
"""
The command line ``python -m lucidworks_provider.check``: it tests what the vendor's documents leave open.

It sends texts of its own within a budget of requests, and prints a report without secrets. The client's retries would
hide what the questions ask, so requests are sent once; only a 429 is repeated.

:data:`QUESTIONS` lists the questions. Each is a generator that sends requests through :class:`_Service` and yields
findings. :func:`verdict_of` decides what a response proves, and :meth:`_Response.finding` states a fact
only for the verdict that proves it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from lucidworks_provider import __version__
from lucidworks_provider.client.auth.token import token_request
from lucidworks_provider.client.http.messages import (
    MODEL_SCOPE,
    PREDICT_SCOPE,
    Response,
    parse_json,
    retry_after,
)
from lucidworks_provider.client.settings import (
    DEFAULT_CONN_ID,
    DEFAULT_DEPLOYMENTS_PATH,
    DEFAULT_USE_CASES_PATH,
)
from lucidworks_provider.client.use_cases import read_use_cases
from lucidworks_provider.errors import LucidworksError, MalformedResponseError

if TYPE_CHECKING:
    import requests

    from lucidworks_provider.client.settings import LucidworksSettings
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

# Characters of one, two, three and four bytes show what the spans count.
_TEXT = (
    "Ein Zelt für zwei \N{CAMPING} hält dicht. A stove boils water \N{SNOWMAN} at night. The rest is plain."
)
_OVERSIZE = 1_000_001
# Row 256 of the vendor's table: 1,500 chunks without quantization.
_DIMENSION, _CHUNK_LIMIT, _LINES = 256, 1_500, 1_600
_BATCH_LIMIT = 32
_POLLS = 10
_LONGEST_POLL_WAIT = 30.0
# Requests at most until the status is not 429.
_TRIES = 4
_LONGEST_RETRY_AFTER = 60.0
_USE_CASE_PATHS = (DEFAULT_USE_CASES_PATH, "/ai/usecase", "/ai/use-cases")
_REWRITER = "standalone-query-rewriter"
_REWRITER_SEGMENTS = (_REWRITER, "standalone_query_rewriter")
_FIELD_NAME = re.compile(r"[A-Za-z_]{1,40}")
_STATUS_WORD = re.compile(r"[A-Za-z_]{1,30}")
_INVALID_TOKEN = "none"  # noqa: S105
# Shorter values are parts of ordinary words.
_SHORTEST_SECRET = 4
# The field with a job's id, and the list in its result.
_JOB_FIELDS = {
    "async-chunking": ("chunkingId", "chunkedData"),
    "async-prediction": ("predictionId", "predictions"),
}
_ANY_LIST = (list, Mapping)
_MODELS_PATH = "/customers/{customer_id}/ai/models"
_YES = {True: "yes", False: "no"}


class Verdict(Enum):
    """What a response proves. The value is the reading if the question needs another verdict."""

    ANSWERS = "the response lacks the expected fields"
    NO_PATH = "no such path, use case, model or job"
    NO_PERMISSION = "no permission"
    REFUSED = "the request was refused"
    NO_ANSWER = "no usable response"


def verdict_of(status: int, body: object, expected: tuple[type, ...] = (Mapping,)) -> Verdict:
    """
    What a response proves.

    :param status: of HTTP.
    :param body: decoded JSON; None if it is not JSON.
    :param expected: types of the body of a success.
    """
    if 200 <= status < 300 and isinstance(body, expected):
        return Verdict.ANSWERS
    if status in {404, 405, 410}:
        return Verdict.NO_PATH
    if status in {401, 403}:
        return Verdict.NO_PERMISSION
    # A gateway sends 400 for reasons of its own, but without the service's JSON.
    if status == 413 or (status in {400, 422} and isinstance(body, Mapping)):
        return Verdict.REFUSED
    return Verdict.NO_ANSWER


class _Stopped(Exception):
    """The check cannot continue; the text is part of the report."""


class Finding(NamedTuple):
    """
    A finding of a question.

    :param field: the connection field to change, with its value.
    """

    tested: str
    received: str
    reading: str
    field: tuple[str, str] | None = None


_NO_GENERATIVE_MODEL = Finding(
    "nothing",
    "no generative model is known",
    "Not asked; the question `use-cases` finds one, or `--generative-model` names it.",
)


@dataclass(frozen=True, slots=True)
class _Response(Response):
    json: Any
    expected: tuple[type, ...] = (Mapping,)

    def __str__(self) -> str:
        """Describe it without a value of the body, which may quote what was sent."""
        if isinstance(self.json, Mapping):
            names = sorted(f"`{name}`" for name in map(str, self.json) if _FIELD_NAME.fullmatch(name))
            return f"HTTP {self.status}, a JSON object with {', '.join(names) or 'no known fields'}"
        kind = {list: "a JSON array", type(None): "not JSON"}.get(type(self.json), "another JSON value")
        return f"HTTP {self.status}, {kind}"

    @property
    def verdict(self) -> Verdict:
        return verdict_of(self.status, self.json, self.expected)

    @property
    def answers(self) -> bool:
        return self.verdict is Verdict.ANSWERS

    @property
    def accepted(self) -> bool:
        """Whether the service accepted the token."""
        return self.verdict in {Verdict.ANSWERS, Verdict.NO_PATH, Verdict.REFUSED}

    def finding(
        self, tested: str, received: str = "", change: tuple[str, str] | None = None, **facts: str
    ) -> Finding:
        """
        What the response proves.

        :param received: what is shown of the response.
        :param facts: readings, by the verdict that proves each, or ``accepted``; others prove nothing.
        """
        fact = facts.get(self.verdict.name.lower()) or (facts.get("accepted") if self.accepted else None)
        reading = fact or f"No answer: {self.verdict.value} ({self.status})."
        return Finding(tested, received or str(self), reading, change)

    def field(self, name: str) -> Any:
        """A field of a success."""
        return self.json.get(name) if self.answers and isinstance(self.json, Mapping) else None

    @property
    def word(self) -> str:
        """The status word of a job."""
        return _word(self.field("status"), "(no status)")

    def listed(self, name: str) -> list[Any]:
        value = self.field(name)
        return value if isinstance(value, list) else []

    def item(self, name: str) -> Mapping[str, Any]:
        """The first object of a list."""
        return next((one for one in self.listed(name) if isinstance(one, Mapping)), {})

    @property
    def contained(self) -> list[Any] | None:
        """The list that a success is, or that its object contains."""
        fields = self.json.values() if isinstance(self.json, Mapping) else (self.json,)
        return next((one for one in fields if self.answers and isinstance(one, list)), None)

    def values(self, name: str) -> list[Any]:
        """The values of a field in a list of objects."""
        return [one.get(name) for one in self.contained or () if isinstance(one, Mapping)]


@dataclass(slots=True)
class _Job:
    """
    A submitted job.

    :param path: to poll; empty if there is no job.
    :param payload: name of the list in its result.
    :param last: the last response to a poll.
    """

    submitted: _Response
    path: str
    payload: str
    last: _Response
    words: list[str]

    @property
    def result(self) -> list[Any]:
        return self.last.listed(self.payload)

    @property
    def failed(self) -> bool:
        return self.submitted.verdict is Verdict.REFUSED or self.last.word == "ERROR"

    def finding(
        self,
        tested: str,
        received: str = "",
        *,
        has: str,
        failed: str = "",
        gone: str = "",
        refused: str = "",
    ) -> Finding:
        """What the last poll proves, or the submission if there is no job."""
        if not self.path:
            return self.submitted.finding(tested, refused=refused)
        received = f"submission: {self.submitted.word}; polls: {', '.join(self.words)}{received}"
        none = failed if failed and self.failed else "No answer: the job had no result."
        return self.last.finding(tested, received, answers=has if self.result else none, no_path=gone)


class _Service:
    """
    Sends requests within the budget.

    :param hook: of the connection.
    :param options: of the command line.
    :param sleep: waits, in seconds.
    """

    def __init__(
        self, hook: LucidworksHook, options: argparse.Namespace, sleep: Callable[[float], object]
    ) -> None:
        self.hook = hook
        self.settings: LucidworksSettings = hook.get_settings()
        self.options = options
        self.sleep = sleep
        self.sent = 0
        self.generative_model: str | None = options.generative_model
        self.model: str = options.model or "gte-small"
        self.rewriter_models: Sequence[str] = ()
        self._tokens: dict[str, str] = {}
        known = self.settings
        self._secrets = {known.client_id, known.client_secret, known.customer_id or ""}
        self._session: requests.Session = hook.get_conn(PREDICT_SCOPE)

    @property
    def embedding(self) -> str:
        return f"/ai/prediction/embedding/{self.model}"

    @property
    def rewriter_model(self) -> str | None:
        """The model of ``--generative-model``, or one that the service lists for the query rewriter."""
        model, listed = self.generative_model, self.rewriter_models
        return model if self.options.generative_model or model in listed or not listed else listed[0]

    def chunking(self, chunker: str) -> str:
        return f"/ai/async-chunking/{chunker}/{self.model}"

    def _send(self, method: str, url: str, headers: Mapping[str, str], **what: Any) -> _Response:
        if self.sent >= self.options.budget:
            raise _Stopped(f"The budget of {self.options.budget} requests is spent.")
        self.sent += 1
        got = self._session.request(
            method,
            url,
            headers={"Accept": "application/json", **headers},
            auth=what.pop("auth", _unchanged),
            allow_redirects=False,
            **what,
        )
        names = {name.lower(): value for name, value in got.headers.items()}
        return _Response(got.status_code, names, got.content, parse_json(got.content))

    def request_token(self, scope: str) -> _Response:
        """Request a token, which may invalidate the one that other processes use."""
        from requests.auth import HTTPBasicAuth

        request = token_request(self.settings, scope)
        pair = HTTPBasicAuth(*(one.encode() for one in request.basic or ()))
        return self._send("POST", request.url, request.headers, params=request.params, auth=pair)

    def new_token(self, scope: str) -> str:
        response = self.request_token(scope)
        token = response.field("access_token")
        if not isinstance(token, str):
            wrong = {
                Verdict.NO_PATH: "`auth_url` and `auth_server_id` with the integration's token URL",
                Verdict.NO_PERMISSION: "Client ID and Client Secret with the integration's screen",
                Verdict.REFUSED: "Client ID, Client Secret and scopes with the integration's screen",
            }.get(response.verdict)
            advice = f" Compare {wrong}." if wrong else ""
            raise _Stopped(f"The identity server issued no token for {scope}: {response}.{advice}")
        self._secrets.add(token)
        self._tokens[scope] = token
        return token

    def token(self, scope: str, refused: str | None = None) -> str:
        """The current token, or one in place of a refused one."""
        if self.options.keep_token:
            token = self.hook.get_token(scope, refused=refused)
            self._secrets.add(token)
            return token
        return self._tokens[scope] if scope in self._tokens and refused is None else self.new_token(scope)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        scope: str = PREDICT_SCOPE,
        token: str | None = None,
        expected: tuple[type, ...] = (Mapping,),
    ) -> _Response:
        """
        Send a request with a token; wait and repeat it on a 429.

        :param path: of the application, or a whole URL.
        :param token: None for the current one, which is replaced once if it is refused.
        """
        shown = token or self.token(scope)
        response = self.send(method, path, shown, body, tries=_TRIES)
        if response.status == 401 and token is None:
            response = self.send(method, path, self.token(scope, refused=shown), body, tries=_TRIES)
        return replace(response, expected=expected)

    def send(self, method: str, path: str, token: str, body: object = None, *, tries: int = 1) -> _Response:
        """Send a request with a token, at most ``tries`` times while the status is 429."""
        url = self.settings.application_base + path if path.startswith("/") else path
        what = {} if body is None else {"json": body}
        for attempt in range(tries):
            response = self._send(method, url, {"Authorization": f"Bearer {token}"}, **what)
            if response.status != 429:
                break
            if attempt + 1 < tries:
                self.sleep(min(retry_after(response) or 2.0**attempt, _LONGEST_RETRY_AFTER))
        return response

    def unknown_job(self, token: str | None = None) -> _Response:
        """Poll a job that does not exist: 404 if the token is accepted."""
        return self.call("GET", f"/ai/async-chunking/{uuid4()}", token=token)

    def submit(self, text: str, path: str, **config: object) -> _Job:
        family = path.split("/")[2]
        id_name, payload = _JOB_FIELDS[family]
        response = self.call("POST", path, {"batch": [{"text": text}], **config})
        job_id = response.field(id_name)
        path = ""
        if isinstance(job_id, str) and job_id:
            self._secrets.add(job_id)
            path = f"/ai/{family}/{job_id}"
        return _Job(response, path, payload, response, [])

    def poll(self, job: _Job) -> None:
        """Poll until there is a result or an error, or the job no longer exists."""
        for attempt in range(_POLLS if job.path else 0):
            self.sleep(min(2.0**attempt, _LONGEST_POLL_WAIT))
            job.last = self.call("GET", job.path)
            job.words.append(job.last.word if job.last.answers else f"HTTP {job.last.status}")
            if job.result or not job.last.answers or job.last.word in {"ERROR", "RETRIEVED"}:
                break

    def hide(self, text: str) -> str:
        """Mask what belongs to the account."""
        hosts = (self.settings.application_url, self.settings.models_url, self.settings.auth_url)
        # Longest first: one may be part of another.
        for secret in sorted({*self._secrets, *filter(None, hosts)}, key=len, reverse=True):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text


# Questions


def _token(service: _Service) -> Iterator[Finding]:
    if service.options.keep_token:
        yield Finding("nothing (`--keep-token`)", "", "Not asked.")
        return
    tested = "two tokens of `machinelearning.predict`; the first one before and after the second was issued"
    entitled = "No answer: a new token is refused, too. Is the application entitled to this scope?"
    old = service.new_token(PREDICT_SCOPE)
    before = service.unknown_job(old)
    received = f"before: HTTP {before.status}"
    if not before.accepted:
        yield before.finding(tested, received, no_permission=entitled)
        return
    invalid = service.unknown_job(_INVALID_TOKEN)
    if invalid.verdict is not Verdict.NO_PERMISSION:
        received += f"; with an invalid token: HTTP {invalid.status}"
        yield invalid.finding(tested, received, accepted="No answer: an invalid token is accepted, too.")
        return
    newest = service.new_token(PREDICT_SCOPE)
    after, when = service.unknown_job(old), "at once"
    received += f"; after: HTTP {after.status}"
    if after.accepted:
        service.sleep(5.0)
        after, when = service.unknown_job(old), "within 5 s"
        received += f"; 5 s later: HTTP {after.status}"
    valid = "The old token stays valid: the newer page, without the sentence about deletion."
    dead = f"The old token is invalid {when} ({after.status}): one token per scope, the strict reading."
    control = service.unknown_job(newest)
    if control.accepted:
        yield after.finding(tested, received, accepted=valid, no_permission=dead)
    else:
        yield control.finding(tested, received, no_permission=entitled)
    if not service.settings.customer_id:
        return
    service.new_token(MODEL_SCOPE)
    after = service.unknown_job(newest)
    lost = ""
    # If permission is missing, a new token is refused, too.
    if not after.accepted and service.unknown_job(service.new_token(PREDICT_SCOPE)).accepted:
        lost = "A token of one scope invalidates that of the other, contrary to the vendor's page."
    tested = "a token of `machinelearning.model`, then the newest one of `machinelearning.predict`"
    independent = "The scopes are independent, as documented."
    yield after.finding(tested, f"HTTP {after.status}", accepted=independent, no_permission=lost)


def _errors(service: _Service) -> Iterator[Finding]:
    unknown = service.request_token("machinelearning.unknown")
    yield _error("a scope that does not exist, to the identity server", unknown)
    yield _error("an invalid token", service.unknown_job(_INVALID_TOKEN))
    yield _error("a poll of a job that does not exist", service.unknown_job())
    yield _error("a prediction of an empty batch", service.call("POST", service.embedding, {"batch": []}))


def _error(tested: str, response: _Response) -> Finding:
    names = set(response.json) if isinstance(response.json, Mapping) else set()
    if {"errorCode", "errorSummary"} & names:
        shape = "The shape of an Okta server."
    elif "error" in names and "message" not in names:
        shape = "The shape of OAuth 2.0 (RFC 6749)."
    else:
        shape = "A shape that no page documents." if names else ""
    return response.finding(
        tested, answers="This is not an error response.", accepted=shape, no_permission=shape
    )


def _first_path(paths: Sequence[str], send: Callable[[str], _Response]) -> tuple[list[str], _Response]:
    """Try paths in order until one exists; return those tried, and the last response."""
    tried: list[str] = []
    for path in dict.fromkeys(paths):
        tried.append(path)
        response = send(path)
        if response.verdict is not Verdict.NO_PATH:
            break
    return tried, response


def _list_path(
    field: str, tried: Sequence[str], response: _Response, *, listed: bool, received: str = ""
) -> Finding:
    """
    What :func:`_first_path` found about the path of a list, of which the connection's is the first.

    :param listed: whether the response has a list, without which a success proves nothing.
    """
    right = f"`{field}` is right." if len(tried) == 1 else ""
    wrong = f"`{field}` is wrong; the path is `{tried[-1]}`."
    return response.finding(
        ", ".join(f"`GET {path}`" for path in tried),
        received,
        (field, tried[-1]) if listed and not right else None,
        answers=(right or wrong) if listed else "",
        no_path=f"No known path exists ({response.status}).",
    )


def _use_cases(service: _Service) -> Iterator[Finding]:
    paths = (service.settings.use_cases_path, *_USE_CASE_PATHS)
    tried, response = _first_path(paths, lambda path: service.call("GET", path, expected=_ANY_LIST))
    listed: Mapping[str, Sequence[str]] = {}
    received = ""
    try:
        listed = read_use_cases(response) if response.answers else {}
    except MalformedResponseError as err:
        received = f"HTTP {response.status}. {str(err).rstrip('.')}"
    yield _list_path("use_cases_path", tried, response, listed=bool(listed), received=received)
    models = {name.replace("_", "-"): names for name, names in listed.items()}
    service.rewriter_models = models.get(_REWRITER, ())
    if not service.options.model and (names := models.get("embedding")):
        service.model = service.model if service.model in names else names[0]
    if not service.generative_model and (names := models.get("passthrough")):
        service.generative_model = names[0]


def _segments(service: _Service) -> Iterator[Finding]:
    model = service.rewriter_model
    if model is None:
        yield _NO_GENERATIVE_MODEL
        return

    def send(segment: str) -> _Response:
        """An existing use case refuses an empty batch, so nothing is computed."""
        return service.call("POST", f"/ai/prediction/{segment}/{model}", {"batch": []})

    tried, response = _first_path((service.settings.segment_of(_REWRITER), *_REWRITER_SEGMENTS), send)
    tested = f"an empty batch to {', '.join(f'`{segment}`' for segment in tried)}"
    if response.verdict is Verdict.NO_PATH:
        # The model, too, may be the reason of a 404.
        control = send("passthrough")
        none = "No answer: the model may not serve the query rewriter."
        if model in service.rewriter_models:
            none = f"No known segment exists ({response.status})."
        yield control.finding(tested, f"{response}; for `passthrough`: {control}", answers=none, refused=none)
    elif not response.accepted:
        yield response.finding(tested)
    elif len(tried) == 1:
        control = send("no-such-use-case")
        right, same = "`use_case_segments` is right.", "No answer: the service checks the batch first."
        received = f"{response}; for a use case that does not exist: {control}"
        yield control.finding(tested, received, no_path=right, answers=same, refused=same)
    else:
        wrong = f"`use_case_segments` is wrong; the segment is `{tried[-1]}`."
        segments = {**dict(service.settings.use_case_segments), _REWRITER: tried[-1]}
        change = ("use_case_segments", json.dumps(segments))
        yield response.finding(tested, "", change, answers=wrong, refused=wrong)


def _predictions(service: _Service) -> Iterator[Finding]:
    one = service.call("POST", service.embedding, {"batch": [{"text": _TEXT}]})
    fields = [
        name
        for name, value in one.item("predictions").items()
        if isinstance(value, list) and _FIELD_NAME.fullmatch(name)
    ]
    vector = "The vector is `vector`, as assumed."
    if fields != ["vector"]:
        vector = "The vector is under another name." if fields else ""
    yield one.finding(
        "the embedding of one text",
        f"{one}; lists in a prediction: {', '.join(f'`{name}`' for name in fields) or 'none'}",
        answers=vector,
        no_path=f"No such path or model ({one.status}); `--model` names another model.",
    )
    if not one.answers:
        return
    body = {"batch": [{"text": _TEXT}], "modelConfig": {"notAnOption": 1}}
    unknown = service.call("POST", service.embedding, body)
    yield unknown.finding(
        "an option that does not exist",
        answers="Unknown options are ignored." if unknown.listed("predictions") else "",
        refused=f"Unknown options are refused ({unknown.status}).",
    )
    batch = [{"text": f"Tent {n}"} for n in range(_BATCH_LIMIT + 1)]
    many = service.call("POST", service.embedding, {"batch": batch})
    got = len(many.listed("predictions"))
    more = f"The documented maximum of {_BATCH_LIMIT} items is not enforced."
    cut = f"A batch over {_BATCH_LIMIT} items is cut without an error." if got else ""
    yield many.finding(
        f"a batch of {len(batch)} texts",
        f"{many}; {got} predictions",
        answers=more if got > _BATCH_LIMIT else cut,
        refused=f"A batch over the documented {_BATCH_LIMIT} items is refused ({many.status}).",
    )


def _jobs(service: _Service) -> Iterator[Finding]:
    job = service.submit(_TEXT, service.chunking("sentence"), chunkerConfig={"chunkSize": 1})
    yield from _read_twice(service, "a chunking job", job)
    if job.result:
        yield from _shape(job.last)
    if service.generative_model is None:
        yield _NO_GENERATIVE_MODEL
        return
    path = f"/ai/async-prediction/passthrough/{service.generative_model}"
    job = service.submit("Say yes.", path, modelConfig={"maxTokens": 8})
    yield from _read_twice(service, "a prediction job", job)


def _read_twice(service: _Service, tested: str, job: _Job) -> Iterator[Finding]:
    service.poll(job)
    like = "as in" if job.last.word == "READY" else "unlike"
    has = f"The result comes with the status {job.last.word}, {like} the vendor's examples."
    yield job.finding(f"{tested} until it had a result", has=has)
    if not job.result:
        return
    again = service.call("GET", job.path)
    times = "twice" if again.listed(job.payload) else "once"
    strict = ": the strict reading" if times == "once" and again.word == "RETRIEVED" else ""
    says = f"A result is readable {times}; the second response says {again.word}{strict}."
    yield again.finding(
        f"the result of {tested} a second time",
        answers=says if again.field("status") else "",
        no_path=f"A result is readable once; afterwards the id is unknown ({again.status}).",
    )


def _shape(result: _Response) -> Iterator[Finding]:
    data = result.item("chunkedData")
    newer, older = isinstance(data.get("vectors"), list), bool(result.listed("vector"))
    shape = "The newer page's shape." if newer else "The older page's shape."
    yield Finding(
        "the shape of that result",
        f"`vectors` in `chunkedData`: {_YES[newer]}; `vector` beside it: {_YES[older]}",
        shape if newer or older else "No answer: there are no vectors.",
    )
    chunks, spans = data.get("chunks"), data.get("spans")
    if isinstance(chunks, list) and isinstance(spans, list):
        yield Finding(
            "the spans of a text with characters of one to four bytes",
            f"{len(chunks)} chunks, {len(spans)} spans",
            f"Spans count {_unit_of(_TEXT, chunks, spans)}.",
        )


def _unit_of(text: str, chunks: Sequence[Any], spans: Sequence[Any]) -> str:
    """What the spans count, by comparing each chunk with the part of the text that its span names."""
    try:
        pairs = [
            (str(chunk).strip(), int(span[0]), int(span[1]))
            for chunk, span in zip(chunks, spans, strict=True)
        ]
    except (ValueError, TypeError, LookupError):
        return "something other than a pair of numbers for each chunk"
    utf8, utf16 = text.encode(), text.encode("utf-16-le")
    units: dict[str, Callable[[int, int], str]] = {
        "characters, as assumed": lambda start, end: text[start:end],
        "bytes of UTF-8": lambda start, end: utf8[start:end].decode(errors="replace"),
        "units of UTF-16": lambda start, end: utf16[2 * start : 2 * end].decode("utf-16-le", "replace"),
    }
    for unit, part in units.items():
        if pairs and all(part(start, end).strip() == chunk for chunk, start, end in pairs):
            return unit
    return "something other than characters, bytes of UTF-8 or units of UTF-16"


def _fails_too(service: _Service, job: _Job, path: str, **config: object) -> str:
    """A reading if a failure of the job proves nothing about its size, as a small one with its options fails."""
    if not job.failed:
        return ""
    small = service.submit(_TEXT, path, **config)
    service.poll(small)
    return "" if small.result else "No answer: small jobs fail, too."


def _text_limit(service: _Service) -> Iterator[Finding]:
    text = ("tent stove " * (_OVERSIZE // 11 + 1))[:_OVERSIZE]
    path, options = service.chunking("dynamic-newline"), {"vectorQuantizationMethod": "max-scale"}
    job = service.submit(text, path, modelConfig=options)
    service.poll(job)
    unproven = _fails_too(service, job, path, modelConfig=options)
    yield job.finding(
        f"a text of {_OVERSIZE:,} bytes",
        has="A text over 1,000,000 bytes is accepted.",
        failed=unproven or "A text over 1,000,000 bytes makes a job that fails.",
        refused=unproven or f"A text over 1,000,000 bytes is refused ({job.submitted.status}).",
    )


def _chunk_limit(service: _Service) -> Iterator[Finding]:
    path = service.chunking("regex-splitter")
    config = {"modelConfig": {"dimReductionSize": _DIMENSION}, "chunkerConfig": {"regex": "\n"}}
    job = service.submit("\n".join(f"tent{n}" for n in range(_LINES)), path, **config)
    service.poll(job)
    chunks = job.last.item("chunkedData").get("chunks")
    got = len(chunks) if isinstance(chunks, list) else 0
    if got == _CHUNK_LIMIT:
        has = "Chunks over the limit are cut without an error; the table holds, for the reduced dimension."
    elif 0 < got < _LINES:
        has = f"Chunks over a limit of {got:,} are cut without an error; the table says {_CHUNK_LIMIT:,}."
    else:
        has = "The table's limit is not enforced." if got else ""
    tested = f"{_LINES:,} lines as chunks of {_DIMENSION} floats; the table allows {_CHUNK_LIMIT:,}"
    unproven = _fails_too(service, job, path, **config)
    yield job.finding(
        tested,
        f"; {got:,} chunks",
        has=has,
        failed=unproven or "A job over the limit fails.",
        refused=unproven or f"A job over the limit is refused ({job.submitted.status}).",
    )


def _models(service: _Service) -> Iterator[Finding]:
    settings = service.settings
    if not settings.customer_id:
        yield Finding("nothing", "the connection has no `customer_id`", "Not asked; the Models API needs it.")
        return

    def send(path: str, *expected: type) -> _Response:
        return service.call("GET", settings.models_path(path), scope=MODEL_SCOPE, expected=expected)

    models = send(_MODELS_PATH, list)
    sizes = {type(size).__name__ for size in models.values("vectorSize")} - {"NoneType"}
    received = _with_states(models)
    if models.answers:
        received += f"; `vectorSize`: {', '.join(sorted(sizes)) or 'absent'}"
    yield models.finding("the list of models", received, answers="The Models API answers as documented.")
    paths = (settings.deployments_path, DEFAULT_DEPLOYMENTS_PATH)
    tried, listed = _first_path(paths, lambda path: send(path, *_ANY_LIST))
    has_list = listed.contained is not None
    yield _list_path("deployments_path", tried, listed, listed=has_list, received=_with_states(listed))
    yield Finding("nothing to `undeploy_path`", "", "Not asked: a deletion cannot be undone.")


def _with_states(listed: _Response) -> str:
    if not listed.answers:
        return str(listed)
    states = {_word(state, "(no word)") for state in listed.values("state")}
    return f"{listed}; {len(listed.values('id'))} items; states: {', '.join(sorted(states)) or 'none'}"


def _rate(service: _Service) -> Iterator[Finding]:
    path, token = f"/ai/async-chunking/{uuid4()}", service.token(PREDICT_SCOPE)
    started = time.monotonic()
    responses = [service.send("GET", path, token) for _ in range(service.options.rate)]
    seconds = time.monotonic() - started
    tested = f"{len(responses)} polls of a job that does not exist, one after the other, in {seconds:.1f} s"
    limited = [one for one in responses if one.status == 429]
    if limited:
        header = "with" if any("retry-after" in one.headers for one in limited) else "without"
        reading = f"A 429 comes {header} `Retry-After`."
        yield Finding(tested, f"{len(limited)} times 429; the first: {limited[0]}", reading)
        return
    worst = min(responses, key=lambda one: one.accepted)
    none = f"No limit below {len(responses) / max(seconds, 0.001):.0f} requests a second was met."
    yield worst.finding(tested, f"0 times 429; {worst}", accepted=none)


def _retention(service: _Service) -> Iterator[Finding]:
    started, times = time.monotonic(), sorted(service.options.retention)
    jobs = [service.submit(_TEXT, service.chunking("sentence")) for _ in times]
    for seconds, job in zip(times, jobs, strict=True):
        service.sleep(max(0.0, started + seconds - time.monotonic()) if job.path else 0.0)
        service.poll(job)
        yield job.finding(
            f"the result of a job for the first time after {seconds:g} s",
            has=f"A result is kept for {seconds:g} s at least.",
            gone=f"A result is no longer there after {seconds:g} s.",
        )


class Question(NamedTuple):
    """
    A question.

    :param requests: what it sends at most, if none is refused with 429 or 401.
    :param cost: what is computed.
    """

    name: str
    title: str
    requests: int
    ask: Callable[[_Service], Iterator[Finding]]
    cost: str = "nothing"


# fmt: off
QUESTIONS = (
    Question("token", "Does a new token invalidate the old one?", 11, _token),
    Question("errors", "What is in an error's body?", 4, _errors),
    Question("use-cases", "Where is the list of use cases?", 4, _use_cases),
    Question("segments", "What is the path segment of the query rewriter?", 4, _segments),
    Question("predictions", "What is in a prediction, and what is refused?", 3, _predictions, "35 short texts"),
    Question("jobs", "Is a result readable twice?", 2 * (_POLLS + 2), _jobs, "two short texts, one generative"),
    Question("text-limit", "What happens to a text over 1 MB?", 2 * (_POLLS + 1), _text_limit, "up to 1 MB of text"),
    Question("chunk-limit", "What happens to too many chunks?", 2 * (_POLLS + 1), _chunk_limit, "1,601 short texts"),
    Question("models", "Are the paths of the Models API right?", 3, _models),
    Question("rate", "Which rate is refused, and how?", 30, _rate),
    Question("retention", "How long is a result kept?", _POLLS + 1, _retention, "one short text each"),
)
# fmt: on


# The run


def main(arguments: Sequence[str] | None = None, *, sleep: Callable[[float], object] = time.sleep) -> int:
    """
    Ask, and print the report; the plan and the prompt are written to standard error.

    :param sleep: waits between polls, in seconds.
    :return: the exit code: 0 if every question was asked, 2 if the connection is not defined, 130 after Ctrl-C,
        else 1.
    :raises SystemExit: 2 for an invalid argument.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    questions = _chosen(options)
    if not questions:
        parser.error("--only and --skip leave no question")
    # A token for each scope.
    needed = 2 + sum(one.requests for one in questions)
    options.budget = options.budget or needed
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    try:
        service = _Service(LucidworksHook(options.conn_id), options, sleep)
        service.settings.application_base  # noqa: B018  an error if there is none
    except LucidworksError as err:
        if isinstance(err.__cause__, AirflowNotFoundException):
            _note(f"The connection {options.conn_id!r} is not defined; --conn-id names another.")
            return 2
        _note(str(err))
        return 1
    try:
        _note(_plan(questions, options, needed))
        if not options.yes and not _confirmed():
            _note("Nothing was sent.")
            return 1
    except (EOFError, KeyboardInterrupt):
        _note("\nNothing was sent.")
        return 1
    findings: dict[str, list[Finding]] = {}
    try:
        ended = _ask(service, questions, findings)
        code = 1 if ended else 0
    except KeyboardInterrupt:
        ended, code = "It was interrupted.", 130
    sys.stdout.write(service.hide(_report(service, findings, ended)) + "\n")
    sys.stdout.flush()
    return code


def _confirmed() -> bool:
    # The prompt of input() would be written to a redirected standard output.
    _note("Send them? [y/N] ", end="")
    return input().strip().lower() in {"y", "yes"}


def _note(text: str, end: str = "\n") -> None:
    sys.stderr.write(text + end)
    sys.stderr.flush()


def _chosen(options: argparse.Namespace) -> list[Question]:
    sizes = {"rate": options.rate, "retention": (_POLLS + 1) * len(options.retention)}
    return [
        one._replace(requests=sizes.get(one.name, one.requests))
        for one in QUESTIONS
        if one.name not in (options.skip or ()) and one.name in (options.only or (one.name,))
    ]


def _ask(service: _Service, questions: Sequence[Question], findings: dict[str, list[Finding]]) -> str | None:
    """
    Ask the questions.

    :param findings: of each title; receives them one by one, so that an interrupted run has a report.
    :return: why it ended early; None if it did not.
    """
    unanswered = 0
    for question in questions:
        found = findings.setdefault(question.title, [])
        try:
            for finding in question.ask(service):
                found.append(finding)
            unanswered = 0
        except _Stopped as err:
            return str(err)
        except OSError as err:  # every exception of requests is one
            unanswered += 1
            found.append(Finding(question.title, f"no response ({type(err).__name__})", "No answer."))
            if unanswered == 2:
                return "Two questions in a row got no response."
        except Exception as err:  # noqa: BLE001  # the report has what was paid for
            # The text may name what is of the account, so it is not in the report.
            _note(service.hide(str(err)))
            return f"It ended with {type(err).__name__}."
    return None


def _plan(questions: Sequence[Question], options: argparse.Namespace, needed: int) -> str:
    lines = [f"{needed} requests at most, budget {options.budget}. Texts are the command's own.", ""]
    lines += [f"  {one.name:<12} {one.requests:>3} requests, computes {one.cost}" for one in questions]
    lines.append("")
    if options.keep_token:
        lines.append("The shared token is used; where there is none, one is requested for each scope.")
    else:
        lines.append(
            "New tokens are requested, which may invalidate the token that running tasks use; they get another one "
            "after a 401. `--keep-token` avoids that."
        )
    return "\n".join(lines)


def _report(service: _Service, findings: Mapping[str, Sequence[Finding]], ended: str | None) -> str:
    lines = [f"# Check of Lucidworks AI, lucidworks_provider {__version__}", ""]
    lines.append(f"{service.sent} requests of a budget of {service.options.budget}.")
    if ended:
        lines.append(f"Ended early: {ended}")
    fields: list[str] = []
    for title, found in findings.items():
        if found:
            lines += ["", f"## {title}", ""]
        for one in found:
            received = f" Received: {one.received}." if one.received else ""
            lines.append(f"* Tested: {one.tested}.{received} **{one.reading}**")
            if one.field:
                fields.append("* `{}`: `{}`".format(*one.field))
    lines += ["", "## Connection fields to change", "", *(fields or ["None."])]
    return "\n".join(lines)


def _word(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) and _STATUS_WORD.fullmatch(value) else otherwise


def _unchanged(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Send neither the session's token nor an entry of netrc."""
    return request


def _above_zero(text: str) -> float:
    with suppress(ValueError):
        # A sleep of a century raises OverflowError.
        if 0 < (number := float(text)) < 1e9:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a finite number above 0")


def _count(text: str) -> int:
    number = _above_zero(text)
    if not number.is_integer():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(number)


def _parser() -> argparse.ArgumentParser:
    names = [one.name for one in QUESTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m lucidworks_provider.check",
        description="Ask Lucidworks AI what its documents leave open, and print a report without secrets.",
    )
    add = parser.add_argument
    add("--conn-id", default=DEFAULT_CONN_ID, help="the connection (%(default)s)")
    add("--yes", action="store_true", help="send without confirmation")
    add("--budget", type=_count, metavar="N", help="requests at most; what the questions need if not given")
    add("--keep-token", action="store_true", help="use the shared token, and skip the question about it")
    add("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--skip", nargs="+", choices=names, metavar="NAME", help="leave out questions")
    add("--model", metavar="ID", help="an embedding model (gte-small, if the service lists it)")
    add("--generative-model", metavar="ID", help="for jobs and segments (the first one listed)")
    add("--rate", type=_count, default=30, metavar="N", help="requests of the question rate (%(default)s)")
    add(
        "--retention",
        type=_above_zero,
        nargs="+",
        default=[60.0],
        metavar="SECONDS",
        help="when to read a result (60)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
