# SPDX-License-Identifier: Apache-2.0
"""
Keeps access tokens out of logs, without Airflow's ``mask_secret``.

Each masked value makes Airflow compile one regular expression of all values anew and search every log line with
it. A connection's password is masked once; tokens keep coming, and a triggerer or an API server would become
slower with each. So the latest tokens are remembered here and replaced by ``***`` in what this process logs:
in records of :mod:`logging` on their way into a handler, and in structlog's finished lines.

What a program writes by itself (``print``) does not pass here. Airflow replaces what looks like a JSON Web
Token (``eyJ...``) in a task's output, and nothing else.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from lucidworks_provider.client.api.secrets import MASK, SHORTEST, parts_of

# Tokens of a few scopes, each with its predecessors, which calls under way still use.
REMEMBERED = 16
# How deep to look into lists and dictionaries, which may contain themselves.
DEPTH = 6

# Each with its parts, as text and as bytes. A deque forgets by itself, and its operations need no lock, which a fork
# could leave locked forever.
_Parts = tuple[tuple[str, bytes], ...]
_latest: deque[_Parts] = deque(maxlen=REMEMBERED)

# What a record consists of in any case, and that is no text of the program's: searched here are only others.
_KNOWN = frozenset(logging.makeLogRecord({}).__dict__) - {"exc_text", "stack_info"}


class TokenText(str):
    """
    An access token that does not show itself.

    It is the token wherever text is expected (``f"Bearer {token}"``, ``str(token)``, JSON, comparison), and
    ``<access token>`` where Python shows values to people: ``repr``, ``%r``, ``{token!r}``, and so within
    collections, dataclasses and failed assertions.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<access token>"


def redact_in_logs(value: str) -> TokenText:
    """
    Keep a token out of this process's logs from now on. Never raises.

    Cheap enough for each time that a token is handed out, which is what makes up for logging that was
    configured anew meanwhile, as Airflow does after it has forked.

    :param value: the token.
    :return: the same, as text that does not show itself.
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
    Install what replaces tokens, where it is missing.

    :param everywhere: look at the handlers of all loggers; else at those of the root, which are most.
    """
    root = logging.getLogger()
    if everywhere or not all(_FILTER in handler.filters for handler in root.handlers):
        others = [getattr(each, "handlers", ()) for each in list(root.manager.loggerDict.values())]
        for handlers in (root.handlers, *others):
            for handler in list(handlers):
                handler.addFilter(_FILTER)  # does nothing if it is there
        if logging.lastResort is not None:
            logging.lastResort.addFilter(_FILTER)
    # Airflow 2 has no structlog. The loggers of Airflow 3 keep the list of processors that they first saw, so a
    # configuration of our own would reach none of them; the list itself does, as in structlog's capture_logs().
    if (structlog := sys.modules.get("structlog")) is not None:
        processors = structlog.get_config()["processors"]
        if _clean_line not in processors:
            if isinstance(processors, list):
                processors.append(_clean_line)
            else:
                structlog.configure(processors=[*processors, _clean_line])


class _RecordFilter(logging.Filter):
    """On handlers rather than loggers: a logger's filters do not see what comes from the loggers below it."""

    def filter(self, record: logging.LogRecord) -> bool:
        with suppress(Exception):  # a log line must not break the program that writes it
            _clean_record(record)
        return True


_FILTER = _RecordFilter()


def _clean_record(record: logging.LogRecord) -> None:
    tokens = tuple(_latest)
    if isinstance(record.msg, dict):  # structlog's, if it is configured to end in logging
        record.msg = _clean(record.msg, tokens)
    else:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # arguments that do not fit: logging will show them as they are
            text = f"{record.msg} {record.args}"
        cleaned = _clean(text, tokens)
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(*record.exc_info))
            if (cleaned_trace := _clean(trace, tokens)) is not trace:
                # The exception belongs to the program, which may look at it: its text becomes the message's.
                cleaned = f"{cleaned}\n{cleaned_trace.rstrip()}"
                record.exc_info = record.exc_text = None
        if cleaned is not text:
            record.msg, record.args = cleaned, ()
    for name, value in list(record.__dict__.items()):
        if name not in _KNOWN:
            record.__dict__[name] = _clean(value, tokens)


def _clean_line(_logger: object, _method: str, line: Any) -> Any:
    """Structlog's last processor: it gets what the renderer made, with tracebacks and all."""
    with suppress(Exception):
        return _clean(line, tuple(_latest))
    return line


def _clean(value: Any, tokens: Collection[_Parts], depth: int = DEPTH) -> Any:
    """
    Replace tokens.

    :param value: text, bytes, or what contains them; anything else is left alone.
    :param tokens: to look for.
    :param depth: how many levels to descend.
    :return: the very same object where there is nothing to replace, else a copy.
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
