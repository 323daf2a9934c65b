# SPDX-License-Identifier: Apache-2.0
"""
Keeps access tokens out of logs, without Airflow's ``mask_secret``.

Airflow compiles one regular expression of all masked values for each new one, and searches every log line with it. A
password is masked once, but there is a new token every hour, and a triggerer or an API server would become slower
with each. So the latest tokens are replaced by ``***`` in what this process logs: in records of :mod:`logging` by a
filter of the handlers, and in the rendered lines of structlog.

Output without logging (``print``) is not covered, but Airflow replaces what looks like a JSON Web Token (``eyJ...``).
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from lucidworks_provider.client.secrets import MASK, SHORTEST, parts_of

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
