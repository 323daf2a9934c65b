# SPDX-License-Identifier: Apache-2.0
"""
The command line ``python -m lucidworks_provider.check``: what does the service do where its documents leave it open?

It sends texts of its own, within a budget of requests that is shown first, and prints a report without secrets.
Requests are sent once, without the retries of the client, because the retries hide what is asked.

:data:`QUESTIONS` lists the questions. Each is a generator that sends requests by a :class:`_Service` and yields what
it finds.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from lucidworks_provider import __version__
from lucidworks_provider.client.auth.token import token_request
from lucidworks_provider.client.http.messages import MODEL_SCOPE, PREDICT_SCOPE
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import LucidworksError

if TYPE_CHECKING:
    import requests

    from lucidworks_provider.client.settings import LucidworksSettings
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

# Characters of one, two, three and four bytes: what the service counts shows in its spans.
_TEXT = (
    "Ein Zelt für zwei \N{CAMPING} hält dicht. A stove boils water \N{SNOWMAN} at night. The rest is plain."
)
_OVERSIZE = 1_000_001
# Row 256 of the vendor's table: 1,500 chunks without quantization.
_DIMENSION, _CHUNK_LIMIT, _LINES = 256, 1_500, 1_600
_BATCH_LIMIT = 32
_POLLS = 10
_LONGEST_POLL_WAIT = 30.0
# Requests at most for one answer that is no 429.
_TRIES = 4
_LONGEST_RETRY_AFTER = 60.0
_USE_CASE_PATHS = ("/ai/usecases", "/ai/usecase", "/ai/use-cases")
_FIELD_NAME = re.compile(r"[A-Za-z_]{1,40}")
_STATUS_WORD = re.compile(r"[A-Za-z_]{1,30}")
# Shorter values are parts of ordinary words.
_SHORTEST_SECRET = 4
_REFUSED = {401, 403}


class _Stopped(Exception):
    """The check cannot continue; the text is part of the report."""


class Finding(NamedTuple):
    """
    What a question has found.

    :param field: the connection field to change, with its value.
    """

    asked: str
    came: str
    reading: str
    field: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class _Response:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    def __str__(self) -> str:
        """Describe it without a value of the body, which may quote what was sent."""
        if isinstance(self.body, Mapping):
            names = sorted(f"`{name}`" for name in map(str, self.body) if _FIELD_NAME.fullmatch(name))
            return f"HTTP {self.status}, a JSON object with {', '.join(names) or 'no known fields'}"
        kind = {list: "a JSON array", type(None): "no JSON"}.get(type(self.body), "another JSON value")
        return f"HTTP {self.status}, {kind}"

    def field(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, Mapping) else None

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

    def values(self, name: str) -> list[Any]:
        """The values of a field in a list of objects."""
        listed = self.body if isinstance(self.body, list) else []
        return [one.get(name) for one in listed if isinstance(one, Mapping)]


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
        self._tokens: dict[str, str] = {}
        self._secrets = {
            self.settings.client_id,
            self.settings.client_secret,
            self.settings.customer_id or "",
        }
        self._session: requests.Session = hook.get_conn(PREDICT_SCOPE)

    def _send(self, method: str, url: str, headers: Mapping[str, str], **what: Any) -> _Response:
        if self.sent >= self.options.budget:
            raise _Stopped(f"The budget of {self.options.budget} requests is spent.")
        self.sent += 1
        got = self._session.request(
            method,
            url,
            headers={"Accept": "application/json", **headers},
            auth=what.pop("auth", _as_it_is),
            allow_redirects=False,
            **what,
        )
        try:
            body = got.json()
        except ValueError:
            body = None
        return _Response(got.status_code, {k.lower(): v for k, v in got.headers.items()}, body)

    def request_token(self, scope: str) -> _Response:
        """Request a token, which may invalidate the one that other processes use."""
        from requests.auth import HTTPBasicAuth

        request = token_request(
            auth_url=self.settings.auth_url,
            auth_server_id=self.settings.auth_server_id,
            client_id=self.settings.client_id,
            client_secret=self.settings.client_secret,
            scope=scope,
        )
        pair = HTTPBasicAuth(*(one.encode() for one in request.basic or ()))
        return self._send("POST", request.url, request.headers, params=request.params, auth=pair)

    def new_token(self, scope: str) -> str:
        answer = self.request_token(scope)
        token = answer.field("access_token")
        if not answer.ok or not isinstance(token, str):
            raise _Stopped(
                f"The identity server issued no token for {scope}: {answer}. Compare Client ID and Client Secret "
                "with the integration's screen."
            )
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
    ) -> _Response:
        """
        Send a request with a token; wait and repeat it on a 429.

        :param path: of the application, or a whole URL.
        :param token: None for the current one, which is replaced once if it is refused.
        """
        shown = token or self.token(scope)
        answer = self._paced(method, path, body, shown)
        if answer.status == 401 and token is None:
            answer = self._paced(method, path, body, self.token(scope, refused=shown))
        return answer

    def _paced(self, method: str, path: str, body: object, token: str) -> _Response:
        for attempt in range(_TRIES):
            answer = self.once(method, path, token, body)
            if answer.status != 429:
                break
            self.sleep(min(_seconds(answer.headers.get("retry-after")) or 2.0**attempt, _LONGEST_RETRY_AFTER))
        return answer

    def once(self, method: str, path: str, token: str, body: object = None) -> _Response:
        """Send a request with a token, once."""
        url = self.settings.application_base + path if path.startswith("/") else path
        what = {} if body is None else {"json": body}
        return self._send(method, url, {"Authorization": f"Bearer {token}"}, **what)

    def submit(self, text: str, path: str, **config: object) -> tuple[_Response, str | None]:
        """Submit a job; return the response and the path to poll."""
        family = path.split("/")[2]
        answer = self.call("POST", path, {"batch": [{"text": text}], **config})
        job_id = answer.field("chunkingId" if family == "async-chunking" else "predictionId")
        if not answer.ok or not isinstance(job_id, str) or not job_id:
            return answer, None
        self._secrets.add(job_id)
        return answer, f"/ai/{family}/{job_id}"

    def poll(self, path: str, payload: str) -> tuple[_Response, str]:
        """Poll until there is a result, an error or no job any more; return the last response and the words."""
        words: list[str] = []
        for attempt in range(_POLLS):
            self.sleep(min(2.0**attempt, _LONGEST_POLL_WAIT))
            answer = self.call("GET", path)
            words.append(answer.word if answer.ok else f"HTTP {answer.status}")
            pending = answer.ok and not answer.listed(payload) and answer.word not in {"ERROR", "RETRIEVED"}
            if not pending:
                break
        return answer, f"polls: {', '.join(words)}"

    def hide(self, text: str) -> str:
        """Mask what belongs to the account, wherever it comes from."""
        hosts = (self.settings.application_url, self.settings.models_url, self.settings.auth_url)
        for secret in (*self._secrets, *filter(None, hosts)):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text


def _unknown_job() -> str:
    """The path of a job that does not exist: 404 with a token that is accepted."""
    return f"/ai/async-chunking/{uuid4()}"


def _refusal(answer: _Response) -> str:
    return f"No answer: the submission was refused ({answer.status})."


# Questions


def _token(service: _Service) -> Iterator[Finding]:
    if service.options.keep_token:
        yield Finding("nothing (`--keep-token`)", "", "Not asked.")
        return
    old, path = service.new_token(PREDICT_SCOPE), _unknown_job()
    first = service.call("GET", path, token=old)
    newest = service.new_token(PREDICT_SCOPE)
    at_once = service.call("GET", path, token=old)
    came = f"before: HTTP {first.status}; after: HTTP {at_once.status}"
    if first.status in _REFUSED:
        reading = "No answer: a new token is refused, too. Is the application entitled to this scope?"
    elif at_once.status in _REFUSED:
        reading = (
            f"The old token is invalid at once ({at_once.status}): one token per scope, the strict reading."
        )
    else:
        service.sleep(5.0)
        later = service.call("GET", path, token=old)
        came += f"; 5 s later: HTTP {later.status}"
        reading = (
            f"The old token becomes invalid within 5 s ({later.status})."
            if later.status in _REFUSED
            else "The old token stays valid: the newer page, without the sentence about deletion."
        )
    asked = "two tokens of `machinelearning.predict`; the first one before and after the second was issued"
    yield Finding(asked, came, reading)
    if service.settings.customer_id:
        service.new_token(MODEL_SCOPE)
        after = service.call("GET", path, token=newest)
        yield Finding(
            "a token of `machinelearning.model`, then the newest one of `machinelearning.predict`",
            f"HTTP {after.status}",
            "A token of one scope invalidates that of the other: the page says that it does not."
            if after.status in _REFUSED
            else "The scopes are independent, as documented.",
        )


def _errors(service: _Service) -> Iterator[Finding]:
    unknown = service.request_token("machinelearning.unknown")
    yield _error("a scope that does not exist, at the identity server", unknown)
    yield _error("a token that is none", service.call("GET", _unknown_job(), token="none"))  # noqa: S106
    yield _error("a job that does not exist", service.call("GET", _unknown_job()))
    empty = service.call("POST", f"/ai/prediction/embedding/{service.model}", {"batch": []})
    yield _error("a prediction of an empty batch", empty)


def _error(asked: str, answer: _Response) -> Finding:
    names = set(answer.body) if isinstance(answer.body, Mapping) else set()
    if answer.ok:
        reading = "It is no error."
    elif {"errorCode", "errorSummary"} & names:
        reading = "The shape of an Okta server."
    elif "error" in names and "message" not in names:
        reading = "The shape of OAuth 2.0 (RFC 6749)."
    else:
        reading = "A shape that no page documents." if names else "No JSON object."
    return Finding(asked, str(answer), reading)


def _use_cases(service: _Service) -> Iterator[Finding]:
    configured = service.settings.use_cases_path
    for path in dict.fromkeys((configured, *_USE_CASE_PATHS)):
        answer = service.call("GET", path)
        if answer.ok:
            break
    else:
        came = f"the last one: {answer}"
        yield Finding("paths of the list", came, "No path is the service's; no page states it.")
        return
    right = path == configured
    yield Finding(
        f"`GET {path}`",
        str(answer),
        "`use_cases_path` is right." if right else "`use_cases_path` of the connection is another path.",
        None if right else ("use_cases_path", path),
    )
    models = {
        str(name): [str(one) for one in listed]
        for name, listed in zip(answer.values("useCase"), answer.values("models"), strict=True)
        if isinstance(listed, list)
    }
    if not service.options.model and (names := models.get("embedding")):
        service.model = service.model if service.model in names else names[0]
    if not service.generative_model and (names := models.get("passthrough")):
        service.generative_model = names[0]


def _predictions(service: _Service) -> Iterator[Finding]:
    path = f"/ai/prediction/embedding/{service.model}"
    one = service.call("POST", path, {"batch": [{"text": _TEXT}]})
    if not one.ok:
        reading = f"No answer: it was refused ({one.status}); `--model` names another embedding model."
        yield Finding("the embedding of one text", str(one), reading)
        return
    fields = [
        name
        for name, value in one.item("predictions").items()
        if isinstance(value, list) and _FIELD_NAME.fullmatch(name)
    ]
    shown = ", ".join(f"`{name}`" for name in fields) or "none"
    yield Finding(
        "the embedding of one text",
        f"{one}; fields of a prediction that are lists: {shown}",
        "The vector is `vector`, as assumed."
        if fields == ["vector"]
        else "The vector is under another name.",
    )
    unknown = service.call("POST", path, {"batch": [{"text": _TEXT}], "modelConfig": {"notAnOption": 1}})
    reading = (
        "Unknown options are ignored." if unknown.ok else f"Unknown options are refused ({unknown.status})."
    )
    yield Finding("an option that does not exist", str(unknown), reading)
    many = service.call("POST", path, {"batch": [{"text": f"Tent {n}"} for n in range(_BATCH_LIMIT + 1)]})
    got = len(many.listed("predictions"))
    if not many.ok:
        reading = f"A batch over the documented {_BATCH_LIMIT} items is refused ({many.status})."
    elif got <= _BATCH_LIMIT:
        reading = f"A batch over {_BATCH_LIMIT} items is cut without an error."
    else:
        reading = f"The documented maximum of {_BATCH_LIMIT} items is not enforced."
    yield Finding(f"a batch of {_BATCH_LIMIT + 1} texts", f"{many}; {got} predictions", reading)


def _jobs(service: _Service) -> Iterator[Finding]:
    chunking = f"/ai/async-chunking/sentence/{service.model}"
    submitted = service.submit(_TEXT, chunking, chunkerConfig={"chunkSize": 1})
    yield from _read_twice(service, "a chunking job", "chunkedData", *submitted)
    if service.generative_model is None:
        reading = "Not asked; `--generative-model` names one."
        yield Finding("no prediction job", "no generative model is known", reading)
        return
    prediction = f"/ai/async-prediction/passthrough/{service.generative_model}"
    submitted = service.submit("Say yes.", prediction, modelConfig={"maxTokens": 8})
    yield from _read_twice(service, "a prediction job", "predictions", *submitted)


def _read_twice(
    service: _Service, asked: str, payload: str, submitted: _Response, path: str | None
) -> Iterator[Finding]:
    if path is None:
        yield Finding(asked, str(submitted), "No answer: the submission was refused.")
        return
    result, polls = service.poll(path, payload)
    came = f"submission: {submitted.word}; {polls}"
    if not result.listed(payload):
        yield Finding(asked, came, "No answer: the job had no result.")
        return
    like = "as in" if result.word == "READY" else "unlike"
    reading = f"The result comes with the status {result.word}, {like} the vendor's examples."
    yield Finding(f"{asked} until it had a result", came, reading)
    again = service.call("GET", path)
    if not again.ok:
        reading = f"A result is readable once; afterwards the id is unknown ({again.status})."
    elif again.listed(payload):
        reading = f"A result is readable twice; the second response says {again.word}."
    else:
        reading = f"A result is readable once; the second response says {again.word}: the strict reading."
    yield Finding(f"the result of {asked} a second time", str(again), reading)
    if payload == "chunkedData":
        yield from _shape(result)


def _shape(result: _Response) -> Iterator[Finding]:
    data = result.item("chunkedData")
    newer, beside = isinstance(data.get("vectors"), list), bool(result.listed("vector"))
    yield Finding(
        "the shape of that result",
        f"`vectors` in `chunkedData`: {_YES[newer]}; `vector` beside it: {_YES[beside]}",
        "The newer page's shape." if newer else "The older page's shape.",
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
        return "something that is no pair of numbers for each chunk"
    utf8, utf16 = text.encode(), text.encode("utf-16-le")
    units: dict[str, Callable[[int, int], str]] = {
        "characters, as assumed": lambda start, end: text[start:end],
        "bytes of UTF-8": lambda start, end: utf8[start:end].decode(errors="replace"),
        "units of UTF-16": lambda start, end: utf16[2 * start : 2 * end].decode("utf-16-le", "replace"),
    }
    for unit, part in units.items():
        if pairs and all(part(start, end).strip() == chunk for chunk, start, end in pairs):
            return unit
    return "something else than characters, bytes of UTF-8 or units of UTF-16"


def _text_limit(service: _Service) -> Iterator[Finding]:
    text = ("tent stove " * (_OVERSIZE // 11 + 1))[:_OVERSIZE]
    chunking = f"/ai/async-chunking/dynamic-newline/{service.model}"
    answer, path = service.submit(text, chunking, modelConfig={"vectorQuantizationMethod": "max-scale"})
    came = str(answer)
    if path is None:
        reading = f"A text over 1,000,000 bytes is refused ({answer.status})."
    else:
        result, polls = service.poll(path, "chunkedData")
        came = f"submission: {answer.word}; {polls}"
        if result.listed("chunkedData"):
            reading = "A text over 1,000,000 bytes is accepted."
        elif result.word == "ERROR":
            reading = "A text over 1,000,000 bytes makes a job that fails."
        else:
            reading = "No answer: the job had no result."
    yield Finding(f"a text of {_OVERSIZE:,} bytes", came, reading)


def _chunk_limit(service: _Service) -> Iterator[Finding]:
    answer, path = service.submit(
        "\n".join(f"tent{n}" for n in range(_LINES)),
        f"/ai/async-chunking/regex-splitter/{service.model}",
        modelConfig={"dimReductionSize": _DIMENSION},
        chunkerConfig={"regex": "\n"},
    )
    asked = f"{_LINES:,} lines as chunks of {_DIMENSION} floats; the table allows {_CHUNK_LIMIT:,}"
    if path is None:
        yield Finding(asked, str(answer), _refusal(answer))
        return
    result, polls = service.poll(path, "chunkedData")
    got = len(result.item("chunkedData").get("chunks") or ())
    if result.word == "ERROR":
        reading = "A job over the limit fails."
    elif not got:
        reading = "No answer: the job had no result."
    elif got == _CHUNK_LIMIT:
        reading = (
            "Chunks over the limit are cut without an error; the table holds, for the reduced dimension."
        )
    elif got < _LINES:
        reading = f"Chunks over a limit of {got:,} are cut without an error; the table says {_CHUNK_LIMIT:,}."
    else:
        reading = "The table's limit is not enforced."
    yield Finding(asked, f"{polls}; {got:,} chunks", reading)


def _models(service: _Service) -> Iterator[Finding]:
    settings = service.settings
    if not settings.customer_id:
        reading = "Not asked; the Models API needs it."
        yield Finding("nothing", "the connection has no `customer_id`", reading)
        return
    models = service.call("GET", settings.models_base + "/models", scope=MODEL_SCOPE)
    sizes = {type(size).__name__ for size in models.values("vectorSize")} - {"NoneType"}
    yield Finding(
        "the list of models",
        f"{models}; {len(models.values('id'))} models; {_states(models)}; "
        f"`vectorSize`: {', '.join(sorted(sizes)) or 'absent'}",
        f"The Models API {'answers' if models.ok else 'does not answer'} as documented.",
    )
    path = settings.deployments_path
    listed = service.call("GET", settings.models_path(path), scope=MODEL_SCOPE)
    if not listed.ok:
        reading = (
            f"`deployments_path` is not the service's path ({listed.status}); the models' lists are used."
        )
    else:
        reading = "`deployments_path` is right."
        if not listed.values("state"):
            reading += " There is no deployment, so its states are not seen."
    yield Finding(f"`GET {path}`", f"{listed}; {_states(listed)}", reading)
    yield Finding("nothing about `undeploy_path`", "", "Not asked: a deletion cannot be undone.")


def _states(listed: _Response) -> str:
    states = {_word(state, "(no word)") for state in listed.values("state")}
    return f"states: {', '.join(sorted(states)) or 'none'}"


def _rate(service: _Service) -> Iterator[Finding]:
    path, token = _unknown_job(), service.token(PREDICT_SCOPE)
    started = time.monotonic()
    answers = [service.once("GET", path, token) for _ in range(service.options.rate)]
    seconds = time.monotonic() - started
    refused = [one for one in answers if one.status == 429]
    came = f"{len(refused)} times 429" + (f"; the first: {refused[0]}" if refused else "")
    if not refused:
        reading = f"No limit below {len(answers) / max(seconds, 0.001):.0f} requests a second was met."
    elif any("retry-after" in one.headers for one in refused):
        reading = "A 429 comes with `Retry-After`."
    else:
        reading = "A 429 comes without `Retry-After`."
    asked = f"{len(answers)} polls of a job that does not exist, one after the other, in {seconds:.1f} s"
    yield Finding(asked, came, reading)


def _retention(service: _Service) -> Iterator[Finding]:
    started, waiting = time.monotonic(), []
    for seconds in sorted(service.options.retention):
        answer, path = service.submit(_TEXT, f"/ai/async-chunking/sentence/{service.model}")
        if path is None:
            yield Finding("a chunking job", str(answer), "No answer: the submission was refused.")
            return
        waiting.append((seconds, path))
    for seconds, path in waiting:
        service.sleep(max(0.0, started + seconds - time.monotonic()))
        result, polls = service.poll(path, "chunkedData")
        kept = bool(result.listed("chunkedData"))
        yield Finding(
            f"the result of a job for the first time after {seconds:g} s",
            polls,
            f"A result is kept for {seconds:g} s at least."
            if kept
            else f"A result is no longer there after {seconds:g} s.",
        )


@dataclass(frozen=True, slots=True)
class Question:
    """
    A question.

    :param requests: what it sends at most, while none is answered with 429 or 401.
    :param cost: what is computed.
    """

    name: str
    title: str
    requests: int
    ask: Callable[[_Service], Iterator[Finding]]
    cost: str = "nothing"


# fmt: off
QUESTIONS = (
    Question("token", "Does a new token invalidate the old one?", 7, _token),
    Question("errors", "What is in an error's body?", 4, _errors),
    Question("use-cases", "Where is the list of use cases?", 4, _use_cases),
    Question("predictions", "What is in a prediction, and what is refused?", 3, _predictions, "35 short texts"),
    Question("jobs", "Is a result readable twice?", 2 * (_POLLS + 2), _jobs, "two short texts, one generative"),
    Question("text-limit", "What happens to a text over 1 MB?", _POLLS + 1, _text_limit, "up to 1 MB of text"),
    Question("chunk-limit", "What happens to chunks over the limit?", _POLLS + 1, _chunk_limit, "1,600 short texts"),
    Question("models", "Do the paths of the Models API hold?", 2, _models),
    Question("rate", "Which rate is refused, and how?", 30, _rate),
    Question("retention", "How long is a result kept?", _POLLS + 1, _retention, "one short text each"),
)
# fmt: on


# The run


def main(arguments: Sequence[str] | None = None, *, sleep: Callable[[float], object] = time.sleep) -> int:
    """
    Ask, and print the report.

    :param sleep: waits between polls, in seconds.
    :return: the exit code: 0 if every question was asked, 130 after Ctrl-C, else 1.
    """
    options = _parser().parse_args(arguments)
    questions = _chosen(options)
    # A token for each scope.
    needed = 2 + sum(one.requests for one in questions)
    options.budget = needed if options.budget is None else options.budget
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    try:
        service = _Service(LucidworksHook(options.conn_id), options, sleep)
        service.settings.application_base  # noqa: B018  an error if there is none
    except LucidworksError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    try:
        _say(_plan(questions, options, needed))
        if not options.yes and input("Send them? [y/N] ").strip().lower() not in {"y", "yes"}:
            _say("Nothing was sent.")
            return 1
    except (EOFError, KeyboardInterrupt):
        _say("\nNothing was sent.")
        return 1
    findings: dict[str, list[Finding]] = {}
    try:
        ended = _ask(service, questions, findings)
        code = 1 if ended else 0
    except KeyboardInterrupt:
        ended, code = "It was interrupted.", 130
    _say(service.hide(_report(service, findings, ended)))
    return code


def _chosen(options: argparse.Namespace) -> list[Question]:
    sizes = {"rate": options.rate, "retention": (_POLLS + 1) * len(options.retention)}
    return [
        replace(one, requests=sizes.get(one.name, one.requests))
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
        except LucidworksError as err:
            # The text may name what is of the account, so it is not in the report.
            sys.stderr.write(f"{err}\n")
            return f"It ended with {type(err).__name__}."
        except OSError as err:  # every exception of requests is one
            unanswered += 1
            found.append(Finding(question.title, f"no response ({type(err).__name__})", "No answer."))
            if unanswered == 2:
                return "Two questions in a row got no response."
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
            came = f" Came: {one.came}." if one.came else ""
            lines.append(f"* Asked: {one.asked}.{came} **{one.reading}**")
            if one.field:
                fields.append("* `{}`: `{}`".format(*one.field))
    lines += ["", "## Connection fields to change", "", *(fields or ["None."])]
    return "\n".join(lines)


_YES = {True: "yes", False: "no"}


def _word(value: object, otherwise: str) -> str:
    return value if isinstance(value, str) and _STATUS_WORD.fullmatch(value) else otherwise


def _seconds(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Neither the session's token nor an entry of netrc."""
    return request


def _parser() -> argparse.ArgumentParser:
    names = [one.name for one in QUESTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m lucidworks_provider.check",
        description="Ask Lucidworks AI what its documents leave open, and print a report without secrets.",
    )
    add = parser.add_argument
    add("--conn-id", default=DEFAULT_CONN_ID, help="the connection (%(default)s)")
    add("--yes", action="store_true", help="send without asking")
    add("--budget", type=int, metavar="N", help="requests at most; what the questions need if not given")
    add("--keep-token", action="store_true", help="use the shared token, and skip the question about it")
    add("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    add("--skip", nargs="+", choices=names, metavar="NAME", help="leave out questions")
    add("--model", metavar="ID", help="an embedding model (gte-small, if the service lists it)")
    add("--generative-model", metavar="ID", help="for a prediction job (the first one listed)")
    add("--rate", type=int, default=30, metavar="N", help="requests of the question rate (%(default)s)")
    add(
        "--retention",
        type=float,
        nargs="+",
        default=[60.0],
        metavar="SECONDS",
        help="when to read a result (60)",
    )
    return parser


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
