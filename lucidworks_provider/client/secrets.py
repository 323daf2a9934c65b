# SPDX-License-Identifier: Apache-2.0
"""
Secrets in texts: names that hold one, the text type that does not show one, and the removal from messages.

Messages of this package are blanked where they are made (:func:`blank`). Logs of other code are not changed:
Airflow 3 replaces JSON Web Tokens, which access tokens are, and masks the passwords of connections itself.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Iterator, Mapping
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
    | {"oov", "cls", "sep", "sos", "start", "end"}
    | {"public", "primary", "foreign", "sort", "partition", "group", "join"}
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


class TokenText(str):
    """
    An access token whose ``repr`` does not show it.

    It is the token as text (``f"Bearer {token}"``, ``str(token)``, JSON, comparison), and ``<access token>`` in
    ``repr``, ``%r`` and ``{token!r}``, and so within collections, dataclasses and failed assertions.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "<access token>"
