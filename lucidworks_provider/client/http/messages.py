# SPDX-License-Identifier: Apache-2.0
"""
Requests, responses and calls as values, and what an HTTP status means.

A client performs a call, synchronously or asynchronously. A call of several requests is a generator that yields
exchanges, and receives the parsed response of each, or its error.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from lucidworks_provider.client.http.large_json import LARGE_BODY, WithoutVectors
from lucidworks_provider.client.options import json_body
from lucidworks_provider.client.secrets import MASK, blank, is_secret_name
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    ContentEncodingError,
    ForbiddenError,
    InputError,
    LucidworksError,
    MalformedResponseError,
    RateLimitError,
    RequestRefusedError,
    ResponseError,
    ServiceError,
    TokenRefusedError,
    UnknownResourceError,
)

# Every `/ai/*` request.
PREDICT_SCOPE = "machinelearning.predict"
# The Models API: models and deployments.
MODEL_SCOPE = "machinelearning.model"
SCOPES = (PREDICT_SCOPE, MODEL_SCOPE)

log = logging.getLogger(__name__)

T = TypeVar("T")
L = TypeVar("L")
T_co = TypeVar("T_co", covariant=True)

EXCERPT_CHARACTERS = 300
# The encodings that requests accept and both clients decode.
ACCEPT_ENCODING = "gzip, deflate"
_DECODED = frozenset({"gzip", "x-gzip", "deflate"})
# A year; longer times cannot be slept.
_LONGEST_RETRY_AFTER = 31_536_000.0

# No error body is documented; servers use these fields, the most specific first.
_REASONS = (
    "message", "error_description", "errorSummary", "errorMessage", "detail", "details", "reason", "error", "errors",
    "title",
)  # fmt: skip
# Those that no other body has.
_ERRORS = ("error", "errors", "errorCode", "errorMessage", "errorSummary", "error_description")
_LONGEST_REASON = 500
# Levels of a body that are searched for a reason.
_DEPTH = 4
# Credentials that a server may quote: JWTs, bearer and basic credentials, keys.
_CREDENTIALS = re.compile(
    r"eyJ[\w-]{5,}(?:\.[\w-]*){0,2}"
    r"|(?i:bearer|basic)\s+[\w.~+/=-]{8,}"
    # Without a word before it: a trigger does not know the keys of third parties.
    r"|\bsk-(?:[\w-]{12,}|(?=[\w-]*[0-9])[\w-]{5,})"
    # As third parties abbreviate them.
    r"|\bsk-[\w-]*(?:[*\u2026]|\.{3})[\w*.\u2026-]*|(?<![\w-])[\w-]{0,16}\*{3,}[\w-]*"
    r"|-----BEGIN\b.*"
    r"|(?<![A-Za-z0-9])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])[A-Za-z0-9]{24,}"
)
# A name and its value; a key file is JSON within JSON, and an excerpt may begin and end anywhere in it.
_NAME = re.compile(r"\"?(?<![\w-])([\w-]+)\\*\"?\s*[:=]\s*")
_VALUE = re.compile(r"\\*\"(?:\\.|[^\"\\])*\"?|[^\s\"&,;{]+")

# May be more than 64 bits, or infinity.
_LARGE_NUMBER = re.compile(rb"[0-9]{19}|[eE]\+?[0-9]{3}")

_BREAKS = re.compile(r"[\t\n\v\f\r\x85\u2028\u2029]")
# Control characters, halves of surrogate pairs, and what turns the direction of a line.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")


# Some servers send it; some decoders reject it.
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Request:
    """
    One HTTP request, without its access token.

    :param name: for messages and logs.
    :param endpoint: a word without ids, for metrics.
    :param replayable: whether it may be sent twice. A submission is not: the service has no idempotency key, so a
        second POST creates a second job.
    :param scope: of its access token.
    :param basic: user name and password of Basic authentication (token request only).
    :param secrets: of third parties, in the body; blanked wherever a response quotes them.
    :param begin_by: in the clock of ``time.monotonic``: waits for other requests, or for the rate limiter, end then.
    """

    name: str
    method: Literal["GET", "POST", "DELETE", "HEAD"]
    url: str
    replayable: bool
    endpoint: str
    scope: str = PREDICT_SCOPE
    params: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    basic: tuple[str, str] | None = field(default=None, repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    begin_by: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """
    One HTTP response.

    :param headers: with lower-case names.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Exchange(Generic[T]):
    """
    A request, and the parser of its response.

    :param attempts: requests at most; None for the number of the retry policy.
    """

    request: Request
    parse: Callable[[Response], T]
    attempts: int | None = None


Steps = Generator[Exchange[Any], Any, T]


@dataclass(frozen=True, slots=True)
class Call(Generic[T_co]):
    """
    What a client can perform.

    :param steps: takes the settings, yields exchanges and returns the result.
    """

    steps: Callable[[LucidworksSettings], Steps[T_co]]

    def first(self, settings: LucidworksSettings) -> Exchange[Any]:
        """The first exchange, which is the only one of most calls."""
        return next(self.steps(settings))

    def beginning_by(self, begin_by: float | None) -> Call[T_co]:
        """
        Return the call with a limit for each of its requests.

        :param begin_by: see :class:`Request`.
        """

        def steps(settings: LucidworksSettings) -> Steps[T_co]:
            inner = self.steps(settings)
            try:
                exchange = next(inner)
                while True:
                    request = replace(exchange.request, begin_by=begin_by)
                    try:
                        parsed = yield replace(exchange, request=request)
                    except LucidworksError as err:
                        exchange = inner.throw(err)
                    else:
                        exchange = inner.send(parsed)
            except StopIteration as end:
                result: T_co = end.value
                return result

        return Call(steps)


def endpoint(build: Callable[[LucidworksSettings], Request], parse: Callable[[Response], T]) -> Call[T]:
    """Return a call of one request."""

    def steps(settings: LucidworksSettings) -> Steps[T]:
        parsed: T = yield Exchange(build(settings), parse)
        return parsed

    return Call(steps)


def endpoint_with_hint(
    build: Callable[[LucidworksSettings], Request],
    parse: Callable[[Response], T],
    listing: Callable[[], Call[L]],
    hint: Callable[[L], str],
    refusals: tuple[type[LucidworksError], ...] = (UnknownResourceError, RequestRefusedError, ForbiddenError),
) -> Call[T]:
    """
    Return a call of one request, whose error names what the service lists instead.

    :param listing: called and performed once after a refusal; its own errors are only logged.
    :param hint: a sentence about what is listed, or an empty text.
    :param refusals: possible errors for an unknown name; which of them is undocumented.
    """

    def steps(settings: LucidworksSettings) -> Steps[T]:
        try:
            parsed: T = yield Exchange(build(settings), parse)
        except refusals as err:
            refused: LucidworksError = err
        else:
            return parsed
        try:
            sentence = hint((yield replace(listing().first(settings), attempts=1)))
        except LucidworksError as err:
            # Not its text: the service may repeat a key of the refused request, which this request does not know.
            status = f", HTTP {err.status}" if isinstance(err, ResponseError) else ""
            log.info("The error below names no alternatives: %s%s.", type(err).__name__, status)
            sentence = ""
        if sentence:
            refused.args = (f"{str(refused).rstrip('.')}. {sentence}", *refused.args[1:])
        raise refused from None

    return Call(steps)


def redact(response: Response, *secrets: str) -> Response:
    """
    The response without secrets that were sent, which the service may quote.

    For errors: results are not changed. See :func:`read_blanked`.
    """
    body = blank(response.body.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")
    return replace(response, body=body)


def read_blanked(read: Callable[[Response], T], response: Response, *secrets: str) -> T:
    """
    Parse a response: a result as the service sent it, an error without secrets that were sent.

    :param read: the parser. Called again after an error, so it must have no side effects.
    """
    try:
        return read(response)
    except LucidworksError:
        pass  # its message may quote them
    return read(redact(response, *secrets))


def path_segment(value: str, what: str) -> str:
    """Quote a value for a URL path; refuse one that would change the path."""
    if not isinstance(value, str) or not value.strip() or value in {".", ".."}:
        raise InputError(f"{what} is {value!r}; give a non-empty name.")
    try:
        return quote(value, safe="")
    except UnicodeEncodeError:
        raise InputError(f"{what} is {value!r}, which is not text.") from None


def check_json(value: object, what: str) -> None:
    """
    Refuse what no request can carry.

    :raises InputError: without the value, which may be a secret.
    """
    try:
        json_body(value)
    except (TypeError, ValueError, RecursionError) as err:
        half = isinstance(err, UnicodeEncodeError)
        why = "half of a surrogate pair cannot be sent as UTF-8" if half else str(err)
        raise InputError(f"{what} cannot be written as JSON: {why}.") from None


JSON_HEADERS: Mapping[str, str] = {"Accept": "application/json", "Content-Type": "application/json"}


def get(name: str, url: str, *, endpoint: str, scope: str = PREDICT_SCOPE, **params: str) -> Request:
    return Request(
        name=name,
        method="GET",
        url=url,
        replayable=True,
        endpoint=endpoint,
        scope=scope,
        params=tuple(params.items()),
        headers={"Accept": "application/json"},
    )


def post(
    name: str,
    url: str,
    body: object,
    *,
    endpoint: str,
    replayable: bool,
    scope: str = PREDICT_SCOPE,
    secrets: tuple[str, ...] = (),
) -> Request:
    return Request(
        name=name,
        method="POST",
        url=url,
        replayable=replayable,
        endpoint=endpoint,
        scope=scope,
        headers=JSON_HEADERS,
        body=json_body(body),
        secrets=secrets,
    )


def read_object(response: Response, name: str) -> dict[str, Any]:
    """
    The JSON object of a successful response.

    :param name: the request's name, for the message.
    :raises ResponseError: one of its subclasses, by the status or the body.
    """
    check_status(response, name)
    return parse_object(response.body, name, status=response.status)


def parse_json(body: bytes, *, packed: bool = False) -> Any:
    """
    Decode JSON; orjson where the ``documents`` extra brought it, for results of many megabytes.

    Large bodies are decoded in pieces, so that the event loop of the process is not blocked.

    :param packed: return the vectors of a large body as arrays instead of lists, where all values are numbers; see
        :class:`~lucidworks_provider.client.http.large_json.WithoutVectors`.
    :return: None if it is not JSON.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    loads: Callable[[bytes], Any]
    try:
        from orjson import loads
    except ImportError:
        loads, packed = _mended, False
    if len(body) <= LARGE_BODY:
        return _decoded(body, loads)
    cut = WithoutVectors(body, loads, packed=packed)
    return cut.filled(_decoded(cut.rest, loads))


def _decoded(body: bytes, loads: Callable[[bytes], Any]) -> Any:
    for decode in (loads, _mended):
        with suppress(ValueError, RecursionError):
            return decode(body)
    return None


def _mended(body: bytes) -> Any:
    """
    Decode JSON with NaN and infinities (as null), numbers beyond 64 bits (as floats) and halves of surrogate pairs.

    A model may cut its text within an emoji. XComs and files of results can hold none of these.
    """
    parse: Mapping[str, Any] = {}
    # A Python function for each number would take several times as long.
    if _LARGE_NUMBER.search(body):
        parse = {"parse_float": _finite, "parse_int": _within_64_bits}
    decoded = json.loads(body, parse_constant=lambda _: None, **parse)
    return _whole(decoded) if b"\\ud" in body.lower() else decoded


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


def _within_64_bits(text: str) -> float | None:
    number = _finite(text)
    return int(text) if number is not None and -(2**63) <= number < 2**63 else number


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_whole(name): _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value


def parse_object(body: bytes, name: str, *, status: int = 200, packed: bool = False) -> dict[str, Any]:
    """Decode a JSON object; ``packed`` as in :func:`parse_json`."""
    decoded = parse_json(body, packed=packed)
    if not isinstance(decoded, dict):
        raise MalformedResponseError(
            f"{name}: HTTP {status} with a body that is not a JSON object. It starts: {excerpt(body)!r}",
            status=status,
        )
    return decoded


def unusable_result(message: str) -> MalformedResponseError:
    """An error that is not retryable: another request would cost the same again."""
    error = MalformedResponseError(f"{message}.", status=200)
    error.retryable = False
    return error


def content_codings(header: str | None) -> list[str] | None:
    """
    The codings of a ``Content-Encoding`` header, in the order in which they were applied.

    :return: None where one of them is not decoded here; the body is then not decoded.
    """
    codings = [coding.strip().lower() for coding in (header or "").split(",")]
    codings = [coding for coding in codings if coding not in {"", "identity"}]
    return codings if _DECODED.issuperset(codings) else None


def check_status(response: Response, name: str) -> None:
    """Raise the error of the status (section 11 of the reference); return for a 2xx that can be decoded."""
    status, encoding = response.status, response.headers.get("content-encoding")
    encoded = content_codings(encoding) is None
    succeeded = 200 <= status < 300
    if succeeded and not encoded:
        return  # before the body is parsed as that of an error
    shown = f"a body in Content-Encoding {encoding!r}" if encoded else vendor_message(response.body)
    text = f"{name}: HTTP {status}: {shown}"
    if succeeded:
        raise ContentEncodingError(
            f"{text}, although only {ACCEPT_ENCODING} was accepted. Configure the proxy or gateway that "
            "compresses it to honour Accept-Encoding; the service has executed the request, so it is not repeated.",
            status=status,
            body=response.body,
            encoding=encoding or "",
        )
    match status:
        case 401:
            raise TokenRefusedError(text, status=status)
        case 403:
            raise ForbiddenError(text, status=status)
        case 404 | 410:
            raise UnknownResourceError(text, status=status)
        case 429:
            raise RateLimitError(text, status=status, retry_after=retry_after(response))
        case _ if status in {408, 425} or status >= 500:
            raise ServiceError(text, status=status, retry_after=retry_after(response))
        case _ if 400 <= status < 500:
            raise RequestRefusedError(text, status=status)
    # Redirects are not followed: a POST would silently become a GET, and a token go to another host.
    raise RequestRefusedError(f"{text} (redirects are not followed)", status=status)


def vendor_message(body: bytes) -> str:
    """The message of an error body, shortened and without what looks like a credential."""
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        return excerpt(body) or "(no body)"
    if isinstance(decoded, dict) and (reason := _reason(decoded)):
        kind = decoded.get("error")
        prefix = f"{kind}: " if isinstance(kind, str) and kind != reason else ""
        return scrub((prefix + reason)[: 8 * EXCERPT_CHARACTERS])[:EXCERPT_CHARACTERS]
    return excerpt(body) or "(no body)"


def reports_failure(body: Mapping[str, Any]) -> bool:
    """Whether a body is that of an error, whatever its HTTP status (section 11 of the reference)."""
    status = str(body.get("status") or "").upper()
    return any(map(body.get, _ERRORS)) or "ERROR" in status or "FAIL" in status


def reason_in(body: Mapping[str, Any]) -> str | None:
    """The reason of a failure, without what looks like a credential."""
    return scrub(_reason(body))[:_LONGEST_REASON] or None


def _reason(body: Mapping[str, Any], depth: int = 0) -> str:
    return next(filter(None, (_text_of(body.get(name), depth) for name in _REASONS)), "")


def _text_of(value: object, depth: int) -> str:
    """A reason, in any of the shapes that services give it."""
    if isinstance(value, str):
        return value.strip()
    if depth == _DEPTH:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_text_of(one, depth + 1) for one in value)))
    if isinstance(value, Mapping) and value:
        if reason := _reason(value, depth + 1):
            return reason
        with suppress(RecursionError):
            return json.dumps(value, ensure_ascii=False)
    return ""


def excerpt(body: bytes) -> str:
    """The first characters of a body, safe to show."""
    # More than is shown, so that a credential at the end is recognised.
    return scrub(body[: 8 * EXCERPT_CHARACTERS].decode("utf-8", "replace"))[:EXCERPT_CHARACTERS].strip()


def scrub(text: str) -> str:
    """Replace what looks like a credential, and characters that logs and databases reject."""
    text = _CREDENTIALS.sub(MASK, printable(text))
    parts, at, search = [], 0, 0
    while (name := _NAME.search(text, search)) is not None:
        search = name.end()
        # "Unknown key: temperature" is no secret.
        if name[1].lower() != "key" and is_secret_name(name[1]) and (value := _VALUE.match(text, search)):
            parts += [text[at : name.start()], MASK]
            at = search = value.end()
    return "".join([*parts, text[at:]])


def printable(text: str) -> str:
    """One line that can be shown and stored: PostgreSQL has no NUL, UTF-8 no halves of a pair."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", _BREAKS.sub(" ", text))


def retry_after(response: Response) -> float | None:
    """Seconds of a ``Retry-After`` header (undocumented for this service, honoured if present)."""
    value = response.headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        pass
    else:
        return min(max(0.0, seconds), _LONGEST_RETRY_AFTER) if math.isfinite(seconds) else None
    try:
        # Relative to the server's own clock.
        moment = parsedate_to_datetime(value)
        now = parsedate_to_datetime(response.headers["date"])
        return min(max(0.0, (moment - now).total_seconds()), _LONGEST_RETRY_AFTER)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
