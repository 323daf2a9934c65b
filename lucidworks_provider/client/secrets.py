# SPDX-License-Identifier: Apache-2.0
"""
Secrets in texts: which names have one, how to blank one in a message, and how to keep it out of logs.

Messages of this package are blanked where they are made (:func:`blank`). The filter of the log handlers is for those
of other code: users' code and libraries at DEBUG log tokens, headers and tracebacks, which no message of ours can
prevent. Airflow's ``mask_secret`` is not for tokens: Airflow compiles one regular expression of all masked values for
each new one and searches every log line with it, and there is a new token every hour, so that a triggerer or an API
server would become slower with each. So the latest tokens are replaced by ``***`` in records of :mod:`logging`, and
in the rendered lines of structlog.

Output without logging (``print``) is not covered, but Airflow replaces what looks like a JSON Web Token (``eyJ...``).
Results are not changed.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import sys
import traceback
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus

MASK = "***"
# Shorter keys and parts are not blanked: they would be found in words.
SHORTEST = 8

# A name that contains one of these is that of a secret.
_SECRET_PARTS = (
    *("apikey", "accesskey", "accountkey", "privatekey", "secret", "password", "passwd", "passphrase"),
    *("credential", "serviceaccount", "accesstoken", "authtoken", "connectionstring"),
)
# So is a name that ends in one of these words, unless one of `_HARMLESS` is before it: `stop_token`.
_SECRET_HEADS = frozenset({"key", "token", "pwd", "jwt", "authorization"})
_HARMLESS = frozenset(
    {"max", "min", "stop", "eos", "bos", "pad", "unk", "mask", "first", "last"}
    | {"public", "foreign", "sort", "partition", "group", "join"}
)
# The same for a name written as one word.
_JOINED = re.compile(
    r"(?:openai|azure|anthropic|google|gemini|cohere|mistral|huggingface|hf|aws|auth|bearer|session|refresh|id"
    r"|user|account|subscription|model|llm|client|service)(?:key|token)\d*"
)
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Of a Google service account: the same in every key file, so no secret.
_CONSTANTS = frozenset({"type", "auth_uri", "token_uri", "auth_provider_x509_cert_url", "universe_domain"})
# The middle of an abbreviated key; an ellipsis may be escaped as in JSON.
_FILLER = re.compile(r"(?:[*\N{BULLET}\N{HORIZONTAL ELLIPSIS}]|\\u2026|\.{3})+")
# At least so many characters of a key are in an abbreviation of it.
_LEAST_SHOWN = 4
_MOST_SHOWN = 64
# A text that is longer is no message, and is not searched for abbreviations.
_LONGEST_MESSAGE = 1 << 20


def is_secret_name(name: object) -> bool:
    """Whether it is the name of a secret: ``azureApiKey``, ``token``, but not ``maxTokens``."""
    if not isinstance(name, str):
        return False
    joined = re.sub(r"[\W_]", "", name).lower()
    if _JOINED.fullmatch(joined) or any(part in joined for part in _SECRET_PARTS):
        return True
    words = [word.lower() for word in _WORDS.findall(name)]
    return words[-1:] != [] and words[-1] in _SECRET_HEADS and not _HARMLESS.intersection(words[-2:-1])


def secrets_in(value: object, *, secret: bool = False) -> Iterator[str]:
    """
    The texts with secret names, at any depth.

    :param secret: whether the name of ``value`` is secret.
    """
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from secrets_in(one, secret=secret or is_secret_name(name))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from secrets_in(one, secret=secret)
    elif secret and isinstance(value, str):
        yield value


def without_secrets(value: Any) -> Any:
    """A copy without the values of secret names, at any depth."""
    if isinstance(value, Mapping):
        return {name: without_secrets(one) for name, one in value.items() if not is_secret_name(name)}
    if isinstance(value, list):
        return [without_secrets(one) for one in value]
    return value


def parts_of(secret: str) -> list[str]:
    """
    A secret and its parts that may be quoted: the values of a key file in JSON (or base64), and its lines.

    :return: the longest first.
    """
    texts = [secret]
    with suppress(ValueError):
        texts.append(base64.b64decode("".join(secret.split()), validate=True).decode())
    for text in texts[:]:
        with suppress(ValueError, RecursionError):
            texts += _values(json.loads(text))
    # A line may end as JSON writes it.
    lines = [line.strip() for text in texts for line in re.split(r"\s*(?:[\r\n]|\\[rn])\s*", text)]
    found = {secret, *(part for part in (*texts, *lines) if len(part) >= SHORTEST)}
    return sorted(found, key=len, reverse=True)


def _values(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _values(one)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in _CONSTANTS:
                yield from _values(one)


def blank(text: str, secrets: Iterable[str]) -> str:
    """
    Blank secrets and their parts: whole, abbreviated, and cut at the end of the text.

    :param secrets: as they were sent; also found as JSON and URLs write them.
    """
    for secret in filter(None, secrets):
        for part in parts_of(secret):
            for written in _ways(part):
                text = text.replace(written, MASK)
        if len(secret) >= SHORTEST and len(text) <= _LONGEST_MESSAGE:
            text = _blank_cut(_blank_abbreviated(text, secret), secret)
    return text


def _ways(secret: str) -> list[str]:
    escaped = json.dumps(secret)[1:-1]
    ways = {secret, escaped, json.dumps(secret, ensure_ascii=False)[1:-1], json.dumps(escaped)[1:-1]}
    # Half a surrogate pair has no place in a URL.
    plain = secret.encode(errors="replace")
    ways |= {quote(plain, safe=""), quote(plain), quote_plus(plain)}
    return sorted(ways, key=len, reverse=True)


def _blank_abbreviated(text: str, secret: str) -> str:
    parts, at = [], 0
    for filler in _FILLER.finditer(text):
        start, end = filler.span()
        most = min(_MOST_SHOWN, len(secret) - 1)
        first = next((n for n in range(most, 0, -1) if text.endswith(secret[:n], at, start)), 0)
        last = next((n for n in range(most, 0, -1) if text.startswith(secret[-n:], end)), 0)
        if first + last >= _LEAST_SHOWN:
            parts += [text[at : start - first], MASK]
            at = end + last
    return "".join([*parts, text[at:]])


def _blank_cut(text: str, secret: str) -> str:
    for part in parts_of(secret):
        for n in range(len(part) - 1, SHORTEST - 1, -1):
            if text.endswith(part[:n]):
                return text[:-n] + MASK
    return text


# The tokens of a few scopes, with earlier ones that pending calls use.
REMEMBERED = 16
# Depth of the search in lists and dictionaries, which may contain themselves.
DEPTH = 6

# Each with its parts, as text and as bytes. The operations of a deque need no lock, which a fork could leave locked.
_Parts = tuple[tuple[str, bytes], ...]
_latest: deque[_Parts] = deque(maxlen=REMEMBERED)

# The standard attributes of a record; only others are searched.
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) - {"exc_text", "stack_info"}


class TokenText(str):
    """
    An access token whose ``repr`` does not show it.

    It is the token as text (``f"Bearer {token}"``, ``str(token)``, JSON, comparison), and ``<access token>`` in
    ``repr``, ``%r`` and ``{token!r}``, and so within collections, dataclasses and failed assertions.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<access token>"


def redact_in_logs(value: str) -> TokenText:
    """
    Replace a token in this process's logs from now on. Never raises.

    Called for each use of a token, as Airflow configures logging again after a fork.

    :param value: the token.
    :return: the same with a ``repr`` that does not show it.
    """
    if len(value) >= SHORTEST:
        with suppress(Exception):
            known = next((parts for parts in tuple(_latest) if parts[0][0] == value), None)
            parts = known or tuple(
                (part, part.encode(errors="replace")) for part in (str(value), *parts_of(value))
            )
            with suppress(ValueError):
                _latest.remove(parts)
            _latest.append(parts)
            _watch(everywhere=known is None)
    return value if isinstance(value, TokenText) else TokenText(value)


def _watch(*, everywhere: bool) -> None:
    """
    Install the filter and the processor where they are missing.

    :param everywhere: on the handlers of all loggers, not only of the root.
    """
    root = logging.getLogger()
    if everywhere or not all(_FILTER in handler.filters for handler in root.handlers):
        others = [getattr(each, "handlers", ()) for each in list(root.manager.loggerDict.values())]
        for handlers in (root.handlers, *others):
            for handler in list(handlers):
                handler.addFilter(_FILTER)  # does nothing if it is there
        if logging.lastResort is not None:
            logging.lastResort.addFilter(_FILTER)
    # Airflow 2 has no structlog. The loggers of Airflow 3 keep the list of processors of their creation, so the list
    # itself is changed, as by structlog's capture_logs().
    if (structlog := sys.modules.get("structlog")) is not None:
        processors = structlog.get_config()["processors"]
        if _clean_line not in processors:
            if isinstance(processors, list):
                processors.append(_clean_line)
            else:
                structlog.configure(processors=[*processors, _clean_line])


class _RecordFilter(logging.Filter):
    """For handlers: the filters of a logger do not see the records of its children."""

    def filter(self, record: logging.LogRecord) -> bool:
        with suppress(Exception):  # logging must not raise
            _clean_record(record)
        return True


_FILTER = _RecordFilter()


def _clean_record(record: logging.LogRecord) -> None:
    tokens = tuple(_latest)
    if isinstance(record.msg, dict):  # of structlog, if it renders with logging
        record.msg = _clean(record.msg, tokens)
    else:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # arguments that do not fit
            text = f"{record.msg} {record.args}"
        cleaned = _clean(text, tokens)
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
            if (cleaned_trace := _clean(trace, tokens)) is not trace:
                # The exception itself is not changed: its text becomes a part of the message.
                cleaned = f"{cleaned}\n{cleaned_trace.rstrip()}"
                record.exc_info = record.exc_text = None
        if cleaned is not text:
            record.msg, record.args = cleaned, ()
    for name, value in list(record.__dict__.items()):
        if name not in _KNOWN:
            record.__dict__[name] = _clean(value, tokens)


def _clean_line(_logger: object, _method: str, line: Any) -> Any:
    """The last processor of structlog: it receives the rendered line, with tracebacks."""
    with suppress(Exception):
        return _clean(line, tuple(_latest))
    return line


def _clean(value: Any, tokens: Collection[_Parts], depth: int = DEPTH) -> Any:
    """
    Replace tokens.

    :param value: text, bytes, or a collection of them; anything else is not changed.
    :param depth: levels to descend.
    :return: the same object if there is nothing to replace, else a copy.
    """
    if isinstance(value, str):
        for parts in tokens:
            for text, _ in parts:
                if text in value:
                    value = value.replace(text, MASK)
    elif isinstance(value, bytes):
        for parts in tokens:
            for _, raw in parts:
                if raw in value:
                    value = value.replace(raw, MASK.encode())
    elif depth > 0 and isinstance(value, dict):
        pairs = [(_clean(k, tokens, 1), _clean(v, tokens, depth - 1)) for k, v in value.items()]
        if any(k is not old or v is not value[old] for (k, v), old in zip(pairs, value, strict=True)):
            return dict(pairs)
    elif depth > 0 and isinstance(value, list | tuple | set | frozenset):
        items = [_clean(each, tokens, depth - 1) for each in value]
        if any(item is not old for item, old in zip(items, value, strict=True)):
            return items if isinstance(value, list) else tuple(items)
    return value
