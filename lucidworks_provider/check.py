# SPDX-License-Identifier: Apache-2.0
"""
The command line ``python -m lucidworks_provider.check``: what does the service do where its documents leave it open?

It sends texts of its own, within a budget of requests that is shown first, and prints a report without secrets.
Requests are sent once, without the retries of the client, because the retries hide what is asked.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
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


class _Stopped(Exception):
    """The check cannot continue; the text is part of the report."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    The answer to a question.

    :param field: the connection field to change, with its value.
    """

    question: str
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

    @property
    def word(self) -> str:
        """The status word of a job."""
        word = self.body.get("status") if isinstance(self.body, Mapping) else None
        return word if isinstance(word, str) and _STATUS_WORD.fullmatch(word) else "(no status)"

    def listed(self, name: str) -> list[Any]:
        value = self.body.get(name) if isinstance(self.body, Mapping) else None
        return value if isinstance(value, list) else []


class _Check:
    """
    Asks the questions, and keeps the findings.

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
        self.findings: list[Finding] = []
        self.sent = 0
        self.question = ""
        self.generative_model: str | None = options.generative_model
        self.model: str = options.model or "gte-small"
        self._tokens: dict[str, str] = {}
        self._secrets = {
            self.settings.client_id,
            self.settings.client_secret,
            self.settings.customer_id or "",
        }
        self._session: requests.Session = hook.get_conn(PREDICT_SCOPE)

    # Requests

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

    def new_token(self, scope: str) -> str:
        """Request a token, which may invalidate the one that other processes use."""
        answer = self._token_response(scope)
        token = answer.body.get("access_token") if isinstance(answer.body, Mapping) else None
        if not answer.ok or not isinstance(token, str):
            raise _Stopped(
                f"The identity server issued no token for {scope}: {answer}. Compare Client ID and Client Secret "
                "with the integration's screen."
            )
        self._secrets.add(token)
        self._tokens[scope] = token
        return token

    def _token_response(self, scope: str) -> _Response:
        request = token_request(
            auth_url=self.settings.auth_url,
            auth_server_id=self.settings.auth_server_id,
            client_id=self.settings.client_id,
            client_secret=self.settings.client_secret,
            scope=scope,
        )
        pair = tuple(one.encode() for one in request.basic or ())
        return self._send("POST", request.url, request.headers, params=request.params, auth=_basic(*pair))

    def _token(self, scope: str, refused: str | None = None) -> str:
        if self.options.keep_token:
            token = self.hook.get_token(scope, refused=refused)
            self._secrets.add(token)
            return token
        return self._tokens[scope] if scope in self._tokens and refused is None else self.new_token(scope)

    def call(
        self,
        method: str,
        url: str,
        body: object = None,
        *,
        scope: str = PREDICT_SCOPE,
        token: str | None = None,
    ) -> _Response:
        """
        Send a request with a token; wait and repeat it on a 429.

        :param token: None for the current one, which is replaced once if it is refused.
        """
        shown = token or self._token(scope)
        answer = self._paced(method, url, body, shown)
        if answer.status == 401 and token is None:
            answer = self._paced(method, url, body, self._token(scope, refused=shown))
        return answer

    def _paced(self, method: str, url: str, body: object, token: str) -> _Response:
        for attempt in range(_TRIES):
            answer = self.once(method, url, body, token)
            if answer.status != 429:
                break
            self.sleep(min(_seconds(answer.headers.get("retry-after")) or 2.0**attempt, _LONGEST_RETRY_AFTER))
        return answer

    def once(self, method: str, url: str, body: object, token: str) -> _Response:
        """Send a request with a token, once."""
        what = {} if body is None else {"json": body}
        return self._send(method, url, {"Authorization": f"Bearer {token}"}, **what)

    def application(self, path: str) -> str:
        return self.settings.application_base + path

    def unknown_job(self) -> str:
        """The URL of a job that does not exist: 404 with a token that is accepted."""
        return self.application(f"/ai/async-chunking/{uuid4()}")

    def found(self, asked: str, came: str, reading: str, field: tuple[str, str] | None = None) -> None:
        self.findings.append(Finding(self.question, asked, came, reading, field))

    # Questions

    def ask_token(self) -> None:
        if self.options.keep_token:
            self.found("nothing (`--keep-token`)", "", "Not asked.")
            return
        old, url = self.new_token(PREDICT_SCOPE), self.unknown_job()
        first = self.call("GET", url, token=old)
        self.new_token(PREDICT_SCOPE)
        at_once = self.call("GET", url, token=old)
        asked = (
            "two tokens of `machinelearning.predict`; the first one before and after the second was issued"
        )
        came = f"before: HTTP {first.status}; after: HTTP {at_once.status}"
        if first.status in {401, 403}:
            reading = "No answer: a new token is refused, too. Is the application entitled to this scope?"
        elif at_once.status in {401, 403}:
            reading = f"The old token is invalid at once ({at_once.status}): one token per scope, the strict reading."
        else:
            self.sleep(5.0)
            later = self.call("GET", url, token=old)
            came += f"; 5 s later: HTTP {later.status}"
            reading = (
                f"The old token becomes invalid within 5 s ({later.status})."
                if later.status in {401, 403}
                else "The old token stays valid: the newer page, without the sentence about deletion."
            )
        self.found(asked, came, reading)
        if self.settings.customer_id:
            predict = self._tokens[PREDICT_SCOPE]
            self.new_token(MODEL_SCOPE)
            after = self.call("GET", url, token=predict)
            independent = after.status not in {401, 403}
            self.found(
                "a token of `machinelearning.model`, then the newest one of `machinelearning.predict`",
                f"HTTP {after.status}",
                "The scopes are independent, as documented."
                if independent
                else "A token of one scope invalidates that of the other: the page says that it does not.",
            )

    def ask_errors(self) -> None:
        cases = {
            "a scope that does not exist, at the identity server": self._token_response(
                "machinelearning.unknown"
            ),
            "a token that is none": self.call("GET", self.unknown_job(), token="none"),  # noqa: S106
            "a job that does not exist": self.call("GET", self.unknown_job()),
            "a prediction of an empty batch": self.call(
                "POST", self.application(f"/ai/prediction/embedding/{self.model}"), {"batch": []}
            ),
        }
        for asked, answer in cases.items():
            self.found(asked, str(answer), _error_shape(answer))

    def ask_use_cases(self) -> None:
        for path in dict.fromkeys((self.settings.use_cases_path, *_USE_CASE_PATHS)):
            answer = self.call("GET", self.application(path))
            if answer.ok:
                break
        else:
            self.found(
                "paths of the list", f"the last one: {answer}", "No path is the service's; no page states it."
            )
            return
        configured = path == self.settings.use_cases_path
        self.found(
            f"`GET {path}`",
            str(answer),
            "`use_cases_path` is right."
            if configured
            else "`use_cases_path` of the connection is another path.",
            None if configured else ("use_cases_path", path),
        )
        self._choose_models(answer.body)

    def _choose_models(self, body: Any) -> None:
        listed = {
            str(one.get("useCase")): [str(name) for name in one.get("models") or ()]
            for one in (body if isinstance(body, list) else ())
            if isinstance(one, Mapping) and isinstance(one.get("models"), list)
        }
        if not self.options.model and (names := listed.get("embedding")):
            self.model = self.model if self.model in names else names[0]
        if not self.generative_model and (names := listed.get("passthrough")):
            self.generative_model = names[0]

    def ask_predictions(self) -> None:
        url = self.application(f"/ai/prediction/embedding/{self.model}")
        one = self.call("POST", url, {"batch": [{"text": _TEXT}]})
        if not one.ok:
            reading = f"No answer: it was refused ({one.status}); `--model` names another embedding model."
            self.found("the embedding of one text", str(one), reading)
            return
        item = next(iter(one.listed("predictions")), None)
        fields = [
            name
            for name, value in (item.items() if isinstance(item, Mapping) else ())
            if isinstance(value, list) and _FIELD_NAME.fullmatch(name)
        ]
        self.found(
            "the embedding of one text",
            f"{one}; fields of a prediction that are lists: {', '.join(f'`{name}`' for name in fields) or 'none'}",
            "The vector is `vector`, as assumed."
            if fields == ["vector"]
            else "The vector is under another name.",
        )
        unknown = self.call("POST", url, {"batch": [{"text": _TEXT}], "modelConfig": {"notAnOption": 1}})
        self.found(
            "an option that does not exist",
            str(unknown),
            "Unknown options are ignored."
            if unknown.ok
            else f"Unknown options are refused ({unknown.status}).",
        )
        many = self.call("POST", url, {"batch": [{"text": f"Tent {n}"} for n in range(_BATCH_LIMIT + 1)]})
        got = len(many.listed("predictions"))
        if not many.ok:
            reading = f"A batch over the documented {_BATCH_LIMIT} items is refused ({many.status})."
        elif got <= _BATCH_LIMIT:
            reading = f"A batch over {_BATCH_LIMIT} items is cut without an error."
        else:
            reading = f"The documented maximum of {_BATCH_LIMIT} items is not enforced."
        self.found(f"a batch of {_BATCH_LIMIT + 1} texts", f"{many}; {got} predictions", reading)

    def submit(self, text: str, path: str, **config: object) -> tuple[_Response, str | None]:
        """Submit a job; return the response and the URL to poll."""
        family = path.split("/")[2]
        answer = self.call("POST", self.application(path), {"batch": [{"text": text}], **config})
        name = "chunkingId" if family == "async-chunking" else "predictionId"
        job_id = answer.body.get(name) if answer.ok and isinstance(answer.body, Mapping) else None
        if not isinstance(job_id, str) or not job_id:
            return answer, None
        self._secrets.add(job_id)
        return answer, self.application(f"/ai/{family}/{job_id}")

    def poll(self, url: str, payload: str) -> tuple[_Response, list[str]]:
        """Poll until there is a result, an error or no job any more; return the last response and the words."""
        words: list[str] = []
        for attempt in range(_POLLS):
            self.sleep(min(2.0**attempt, _LONGEST_POLL_WAIT))
            answer = self.call("GET", url)
            words.append(answer.word if answer.ok else f"HTTP {answer.status}")
            pending = answer.ok and not answer.listed(payload) and answer.word not in {"ERROR", "RETRIEVED"}
            if not pending:
                break
        return answer, words

    def ask_jobs(self) -> None:
        answer, url = self.submit(
            _TEXT, f"/ai/async-chunking/sentence/{self.model}", chunkerConfig={"chunkSize": 1}
        )
        if result := self._read_twice("a chunking job", "chunkedData", answer, url):
            self._shape(result)
        if self.generative_model is None:
            self.found(
                "no prediction job",
                "no generative model is known",
                "Not asked; `--generative-model` names one.",
            )
            return
        path = f"/ai/async-prediction/passthrough/{self.generative_model}"
        answer, url = self.submit("Say yes.", path, modelConfig={"maxTokens": 8})
        self._read_twice("a prediction job", "predictions", answer, url)

    def _read_twice(
        self, asked: str, payload: str, submitted: _Response, url: str | None
    ) -> _Response | None:
        if url is None:
            self.found(asked, str(submitted), "No answer: the submission was refused.")
            return None
        result, words = self.poll(url, payload)
        came = f"submission: {submitted.word}; polls: {', '.join(words)}"
        if not result.listed(payload):
            self.found(asked, came, "No answer: the job had no result.")
            return None
        self.found(
            f"{asked} until it had a result",
            came,
            f"The result comes with the status {result.word}"
            + (
                ", as in the vendor's examples."
                if result.word == "READY"
                else ", unlike the vendor's examples."
            ),
        )
        again = self.call("GET", url)
        if again.ok and again.listed(payload):
            reading = f"A result is readable twice; the second response says {again.word}."
        elif again.ok:
            reading = f"A result is readable once; the second response says {again.word}: the strict reading."
        else:
            reading = f"A result is readable once; afterwards the id is unknown ({again.status})."
        self.found(f"the result of {asked} a second time", str(again), reading)
        return result

    def _shape(self, result: _Response) -> None:
        data = next((one for one in result.listed("chunkedData") if isinstance(one, Mapping)), {})
        newer = isinstance(data.get("vectors"), list)
        self.found(
            "the shape of that result",
            f"`vectors` in `chunkedData`: {_yes(newer)}; `vector` beside it: {_yes(bool(result.listed('vector')))}",
            "The newer page's shape." if newer else "The older page's shape.",
        )
        chunks, spans = data.get("chunks"), data.get("spans")
        if isinstance(chunks, list) and isinstance(spans, list):
            self.found(
                "the spans of a text with characters of one to four bytes",
                f"{len(chunks)} chunks, {len(spans)} spans",
                f"Spans count {_unit_of(_TEXT, chunks, spans)}.",
            )

    def ask_text_limit(self) -> None:
        text = ("tent stove " * (_OVERSIZE // 11 + 1))[:_OVERSIZE]
        path = f"/ai/async-chunking/dynamic-newline/{self.model}"
        answer, url = self.submit(text, path, modelConfig={"vectorQuantizationMethod": "max-scale"})
        came = str(answer)
        if not answer.ok or url is None:
            reading = f"A text over 1,000,000 bytes is refused ({answer.status})."
        else:
            result, words = self.poll(url, "chunkedData")
            came = f"submission: {answer.word}; polls: {', '.join(words)}"
            reading = {
                True: "A text over 1,000,000 bytes is accepted.",
                False: "A text over 1,000,000 bytes makes a job that fails."
                if result.word == "ERROR"
                else "No answer: the job had no result.",
            }[bool(result.listed("chunkedData"))]
        self.found(f"a text of {_OVERSIZE:,} bytes", came, reading)

    def ask_chunk_limit(self) -> None:
        answer, url = self.submit(
            "\n".join(f"tent{n}" for n in range(_LINES)),
            f"/ai/async-chunking/regex-splitter/{self.model}",
            modelConfig={"dimReductionSize": _DIMENSION},
            chunkerConfig={"regex": "\n"},
        )
        asked = f"{_LINES:,} lines as chunks of {_DIMENSION} floats; the table allows {_CHUNK_LIMIT:,}"
        if url is None:
            self.found(asked, str(answer), f"No answer: the submission was refused ({answer.status}).")
            return
        result, words = self.poll(url, "chunkedData")
        data = next((one for one in result.listed("chunkedData") if isinstance(one, Mapping)), {})
        got = len(data.get("chunks") or ())
        came = f"polls: {', '.join(words)}; {got:,} chunks"
        if result.word == "ERROR":
            reading = "A job over the limit fails."
        elif not got:
            reading = "No answer: the job had no result."
        elif got == _CHUNK_LIMIT:
            reading = (
                "Chunks over the limit are cut without an error; the table holds, for the reduced dimension."
            )
        elif got < _LINES:
            reading = (
                f"Chunks over a limit of {got:,} are cut without an error; the table says {_CHUNK_LIMIT:,}."
            )
        else:
            reading = "The table's limit is not enforced."
        self.found(asked, came, reading)

    def ask_models(self) -> None:
        if not self.settings.customer_id:
            self.found(
                "nothing", "the connection has no `customer_id`", "Not asked; the Models API needs it."
            )
            return
        models = self.call("GET", self.settings.models_base + "/models", scope=MODEL_SCOPE)
        sizes = {type(one.get("vectorSize")).__name__ for one in _objects(models.body)} - {"NoneType"}
        states = {_word(one.get("state")) for one in _objects(models.body)}
        self.found(
            "the list of models",
            f"{models}; {len(_objects(models.body))} models; states: {', '.join(sorted(states)) or 'none'}; "
            f"`vectorSize`: {', '.join(sorted(sizes)) or 'absent'}",
            "The Models API answers as documented."
            if models.ok
            else "The Models API does not answer as documented.",
        )
        path = self.settings.deployments_path
        listed = self.call("GET", self.settings.models_path(path), scope=MODEL_SCOPE)
        states = {_word(one.get("state")) for one in _objects(listed.body)}
        if not listed.ok:
            reading = (
                f"`deployments_path` is not the service's path ({listed.status}); the models' lists are used."
            )
        elif not states:
            reading = "`deployments_path` is right. There is no deployment, so its states are not seen."
        else:
            reading = "`deployments_path` is right."
        self.found(f"`GET {path}`", f"{listed}; states: {', '.join(sorted(states)) or 'none'}", reading)
        self.found("nothing about `undeploy_path`", "", "Not asked: a deletion cannot be undone.")

    def ask_rate(self) -> None:
        url, token = self.unknown_job(), self._token(PREDICT_SCOPE)
        started = time.monotonic()
        answers = [self.once("GET", url, None, token) for _ in range(self.options.rate)]
        seconds = time.monotonic() - started
        refused = [one for one in answers if one.status == 429]
        asked = f"{len(answers)} polls of a job that does not exist, one after the other, in {seconds:.1f} s"
        if not refused:
            reading = f"No limit below {len(answers) / max(seconds, 0.001):.0f} requests a second was met."
        elif any("retry-after" in one.headers for one in refused):
            reading = "A 429 comes with `Retry-After`."
        else:
            reading = "A 429 comes without `Retry-After`."
        came = f"{len(refused)} times 429" + (f"; the first: {refused[0]}" if refused else "")
        self.found(asked, came, reading)

    def ask_retention(self) -> None:
        started, waiting = time.monotonic(), []
        for seconds in sorted(self.options.retention):
            answer, url = self.submit(_TEXT, f"/ai/async-chunking/sentence/{self.model}")
            if url is None:
                self.found("a chunking job", str(answer), "No answer: the submission was refused.")
                return
            waiting.append((seconds, url))
        for seconds, url in waiting:
            self.sleep(max(0.0, started + seconds - time.monotonic()))
            result, words = self.poll(url, "chunkedData")
            kept = bool(result.listed("chunkedData"))
            self.found(
                f"the result of a job for the first time after {seconds:g} s",
                f"polls: {', '.join(words)}",
                f"A result is kept for {seconds:g} s at least."
                if kept
                else f"A result is no longer there after {seconds:g} s.",
            )

    # The run

    def run(self, questions: Sequence[Question]) -> str | None:
        """
        Ask the questions.

        :return: why it ended early; None if it did not.
        """
        unanswered = 0
        for question in questions:
            self.question = question.title
            try:
                question.ask(self)
                unanswered = 0
            except _Stopped as err:
                return str(err)
            except LucidworksError as err:
                # The text may name what is of the account, so it is not in the report.
                sys.stderr.write(f"{err}\n")
                return f"It ended with {type(err).__name__}."
            except OSError as err:  # every exception of requests is one
                unanswered += 1
                self.found(question.title, f"no response ({type(err).__name__})", "No answer.")
                if unanswered == 2:
                    return "Two questions in a row got no response."
        return None

    def hide(self, text: str) -> str:
        """Mask what belongs to the account, wherever it comes from."""
        hosts = (self.settings.application_url, self.settings.models_url, self.settings.auth_url)
        for secret in (*self._secrets, *filter(None, hosts)):
            if len(secret) >= _SHORTEST_SECRET:
                text = text.replace(secret, "***")
        return text


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
    ask: Callable[[_Check], None]
    cost: str = "nothing"


QUESTIONS = (
    Question("token", "Does a new token invalidate the old one?", 7, _Check.ask_token),
    Question("errors", "What is in an error's body?", 4, _Check.ask_errors),
    Question("use-cases", "Where is the list of use cases?", 4, _Check.ask_use_cases),
    Question(
        "predictions",
        "What is in a prediction, and what is refused?",
        3,
        _Check.ask_predictions,
        "35 short texts",
    ),
    Question(
        "jobs",
        "Is a result readable twice?",
        2 * (_POLLS + 2),
        _Check.ask_jobs,
        "two short texts, one generative",
    ),
    Question(
        "text-limit",
        "What happens to a text over 1 MB?",
        _POLLS + 1,
        _Check.ask_text_limit,
        "up to 1 MB of text",
    ),
    Question(
        "chunk-limit",
        "What happens to chunks over the limit?",
        _POLLS + 1,
        _Check.ask_chunk_limit,
        "1,600 short texts",
    ),
    Question("models", "Do the paths of the Models API hold?", 2, _Check.ask_models),
    Question("rate", "Which rate is refused, and how?", 30, _Check.ask_rate),
    Question(
        "retention", "How long is a result kept?", _POLLS + 1, _Check.ask_retention, "one short text each"
    ),
)


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
        check = _Check(LucidworksHook(options.conn_id), options, sleep)
        check.settings.application_base  # noqa: B018  an error if there is none
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
    try:
        ended = check.run(questions)
        code = 1 if ended else 0
    except KeyboardInterrupt:
        ended, code = "It was interrupted.", 130
    _say(check.hide(_report(check, ended)))
    return code


def _chosen(options: argparse.Namespace) -> list[Question]:
    sizes = {"rate": options.rate, "retention": (_POLLS + 1) * len(options.retention)}
    return [
        replace(one, requests=sizes.get(one.name, one.requests))
        for one in QUESTIONS
        if one.name not in (options.skip or ()) and one.name in (options.only or (one.name,))
    ]


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


def _report(check: _Check, ended: str | None) -> str:
    lines = [f"# Check of Lucidworks AI, lucidworks_provider {__version__}", ""]
    lines += [f"{check.sent} requests of a budget of {check.options.budget}."]
    if ended:
        lines.append(f"Ended early: {ended}")
    title = ""
    for one in check.findings:
        if one.question != title:
            title = one.question
            lines += ["", f"## {title}", ""]
        came = f" Came: {one.came}." if one.came else ""
        lines.append(f"* Asked: {one.asked}.{came} **{one.reading}**")
    lines += ["", "## Connection fields to change", ""]
    fields = [one.field for one in check.findings if one.field]
    lines += [f"* `{name}`: `{value}`" for name, value in fields] or ["None."]
    return "\n".join(lines)


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


def _error_shape(answer: _Response) -> str:
    names = set(answer.body) if isinstance(answer.body, Mapping) else set()
    if answer.ok:
        return "It is no error."
    if {"errorCode", "errorSummary"} & names:
        return "The shape of an Okta server."
    if "error" in names and "message" not in names:
        return "The shape of OAuth 2.0 (RFC 6749)."
    return "A shape that no page documents." if names else "No JSON object."


def _objects(body: Any) -> list[Mapping[str, Any]]:
    return [one for one in body if isinstance(one, Mapping)] if isinstance(body, list) else []


def _word(value: object) -> str:
    return value if isinstance(value, str) and _STATUS_WORD.fullmatch(value) else "(no word)"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _seconds(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Neither the session's token nor an entry of netrc."""
    return request


def _basic(client_id: bytes, secret: bytes) -> Any:
    from requests.auth import HTTPBasicAuth

    return HTTPBasicAuth(client_id, secret)


def _parser() -> argparse.ArgumentParser:
    names = [one.name for one in QUESTIONS]
    parser = argparse.ArgumentParser(
        prog="python -m lucidworks_provider.check",
        description="Ask Lucidworks AI what its documents leave open, and print a report without secrets.",
    )
    parser.add_argument("--conn-id", default=DEFAULT_CONN_ID, help="the connection (%(default)s)")
    parser.add_argument("--yes", action="store_true", help="send without asking")
    parser.add_argument(
        "--budget", type=int, metavar="N", help="requests at most; what the questions need if not given"
    )
    parser.add_argument(
        "--keep-token", action="store_true", help="use the shared token, and skip the question about it"
    )
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--skip", nargs="+", choices=names, metavar="NAME", help="leave out questions")
    parser.add_argument(
        "--model", metavar="ID", help="an embedding model (gte-small, if the service lists it)"
    )
    parser.add_argument(
        "--generative-model", metavar="ID", help="for a prediction job (the first one listed)"
    )
    parser.add_argument(
        "--rate", type=int, default=30, metavar="N", help="requests of the question rate (%(default)s)"
    )
    parser.add_argument(
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
