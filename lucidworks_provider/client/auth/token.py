# SPDX-License-Identifier: Apache-2.0
"""An access token: its identity, its history of revocations, and its encryption in a shared store."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
import re
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from lucidworks_provider.client.http.messages import (
    Request,
    Response,
    check_status,
    parse_object,
    vendor_message,
)
from lucidworks_provider.client.secrets import TokenText
from lucidworks_provider.errors import (
    AuthenticationError,
    ContentEncodingError,
    MalformedResponseError,
    ResponseError,
)

if TYPE_CHECKING:
    from cryptography.fernet import Fernet

    from lucidworks_provider.client.settings import LucidworksSettings

log = logging.getLogger(__name__)

MINUTE = 60.0
ALLOWED = 20
MAX_DELAY = 0.5
FIRST_PAUSE = 60.0
LONGEST_PAUSE = 600.0

_CURE = (
    "Another system requests access tokens with the same client id, which invalidates those of this "
    "Airflow: create a separate integration, with its own client id, for each system. Or the application has no "
    "permission for its requests."
)


@dataclass(frozen=True, slots=True)
class RevocationHistory:
    """
    Tokens that were refused before they expired, stored beside the shared token.

    Another system that uses the same client ID has invalidated them, and each new token of this Airflow invalidates
    that system's. So each further refresh is delayed a little longer, and above ``ALLOWED`` revocations a minute
    there is none for a minute, then for two, up to ten.

    Times are seconds since the epoch by the identity server's clock, the only one that all hosts share.

    :param times: of the revocations within the last minute.
    :param warned_at: when the log last named the cause.
    :param pauses: how many there were since a token last expired.
    :param until: when the pause ends.
    """

    times: tuple[float, ...] = ()
    warned_at: float = 0.0
    pauses: int = 0
    until: float = 0.0

    def with_revocation(self, now: float) -> RevocationHistory:
        """The history after another revocation."""
        recent = tuple(moment for moment in self.times if now - MINUTE < moment <= now)
        more = replace(self, times=(*recent, now))
        if len(more.times) > ALLOWED:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self.pauses)
            return replace(more, pauses=self.pauses + 1, until=now + pause)
        return more

    def after_expiry(self, now: float) -> RevocationHistory:
        """The history after a token expired: one minute without a revocation resets it."""
        return self if any(now - MINUTE < moment <= now for moment in self.times) else RevocationHistory()

    def with_warning(self, now: float) -> RevocationHistory:
        return replace(self, warned_at=now)

    def warning_due(self, now: float) -> bool:
        """Whether the last warning is more than a minute ago."""
        return bool(self.times) and not 0 <= now - self.warned_at < MINUTE

    def pause_left(self, now: float) -> float:
        """Seconds for which no new token may be requested. At most ``LONGEST_PAUSE``, whatever the clock."""
        return min(max(0.0, self.until - now), LONGEST_PAUSE)

    def delay(self, now: float) -> float:
        """
        Seconds to wait before the next refresh: longer after each revocation within a minute.

        Short enough to count more than ``ALLOWED`` a minute: with a delay longer than the other system's interval,
        some of its tokens would not be counted.
        """
        recent = sum(now - MINUTE < moment <= now for moment in self.times)
        return 0.0 if recent < 2 else min(MAX_DELAY, 0.1 * 2.0 ** (recent - 2))

    def warning(self) -> str:
        return (
            f"{len(self.times)} refused before expiry within the last minute. {_CURE} Above {ALLOWED} a minute no "
            "more are requested."
        )

    def error_text(self, pause: float) -> str:
        """The text of the error during a pause."""
        return (
            f"{len(self.times)} access tokens were refused before expiry within a minute. {_CURE} No new token is "
            f"requested for {pause:.0f} s."
        )


# The vendor's advice is five minutes before expiry; a tenth of the lifetime where that is shorter.
REFRESH_MARGIN = 300.0


@dataclass(frozen=True, slots=True)
class TokenIdentity:
    """
    What a token belongs to: the service keeps one live token for each identity.

    Connections with the same client ID share a token.
    """

    auth_url: str
    auth_server_id: str
    client_id: str
    scope: str

    @property
    def digest(self) -> str:
        """A name for stores: 24 hexadecimal digits, safe in any key."""
        parts = (self.auth_url, self.auth_server_id, self.client_id, self.scope)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class AccessToken:
    """
    A token and its times, in seconds since the epoch by the identity server's clock.

    :param value: the token itself; never shown by ``repr``.
    :param issued_at: when it was issued.
    :param refresh_at: when the next one is requested.
    :param expires_at: when it stops being accepted.
    :param revocations: of earlier tokens.
    :param after_403: it replaced a token that was refused with 403 before its time.
    """

    value: str = field(repr=False)
    issued_at: float
    refresh_at: float
    expires_at: float
    revocations: RevocationHistory = field(default_factory=RevocationHistory)
    after_403: bool = False

    @classmethod
    def from_response(cls, response: TokenResponse, asked_at: float) -> AccessToken:
        """
        :param asked_at: when the request was sent, by the identity server's clock; the token is not older.
        """
        margin = min(REFRESH_MARGIN, response.lifetime / 10)
        expires_at = asked_at + response.lifetime
        return cls(TokenText(response.access_token), asked_at, expires_at - margin, expires_at)

    def to_json(self) -> str:
        """Plain text, for encryption."""
        history = self.revocations
        times = [self.issued_at, self.refresh_at, self.expires_at]
        stored = [2, self.value, times, [history.times, history.warned_at, history.pauses, history.until]]
        # Absent where it is False, for earlier versions of this package.
        return json.dumps([*stored, True] if self.after_403 else stored)

    @classmethod
    def from_json(cls, text: str) -> AccessToken:
        """:raises ValueError: not what :meth:`to_json` wrote."""
        match json.loads(text):
            case [2, str(value), list(times), [list(lost), warned_at, int(pauses), until], *after_403]:
                try:
                    issued, refresh, end = map(float, times)
                    revocations = RevocationHistory(
                        tuple(map(float, lost)), float(warned_at), pauses, float(until)
                    )
                except (TypeError, OverflowError) as err:
                    raise ValueError("a stored time is not a number") from err
                return cls(TokenText(value), issued, refresh, end, revocations, after_403 == [True])
        raise ValueError("not a stored token of this version")


class TokenCipher:
    """
    Encrypts a shared token under a key derived from the client secret.

    A reader of the store without the secret cannot use the token, and a rotated secret makes the old value
    unreadable. The primitives are those of the ``cryptography`` package, which Airflow installs.
    """

    def __init__(self, identity: TokenIdentity, client_secret: str) -> None:
        self._salt = identity.digest.encode()
        self._secret = client_secret.encode()
        self._derived: Fernet | None = None
        self._unreadable: str | None = None

    @property
    def _fernet(self) -> Fernet:
        # Loaded and derived at the first use, which is in a thread: making a cipher costs an event loop nothing.
        # Without a lock, which a fork could leave locked: deriving twice does no harm.
        if self._derived is None:
            self._derived = self._derive()
        return self._derived

    def _derive(self) -> Fernet:
        from cryptography.fernet import Fernet
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        # A client secret is random and long, so a fast derivation is enough; the identity as salt keeps one
        # scope's ciphertext from being passed off as another's.
        derive = HKDF(
            algorithm=SHA256(), length=32, salt=self._salt, info=b"airflow-provider-lucidworks token v1"
        )
        return Fernet(base64.urlsafe_b64encode(derive.derive(self._secret)))

    def seal(self, token: AccessToken) -> str:
        return self._fernet.encrypt(token.to_json().encode()).decode()

    def open(self, text: str | None, place: str) -> AccessToken | None:
        """
        Decrypt; None for nothing, and with a warning for anything that this secret has not sealed.

        :param place: of the text, for the warning.
        """
        from cryptography.fernet import InvalidToken

        if text is None:
            return None
        try:
            return AccessToken.from_json(self._fernet.decrypt(text.encode()).decode())
        except (InvalidToken, ValueError):
            if text != self._unreadable:
                self._unreadable = text
                log.warning(
                    "%s was not written with this client secret (rotated?) or is damaged; it will be replaced by a "
                    "new one.",
                    place,
                )
            return None


# The documented lifetime, for a response without `expires_in`.
DEFAULT_LIFETIME = 3600.0
# Longer lifetimes are errors of the service.
_LONGEST_LIFETIME = 30 * 24 * 3600.0
_NAME = "Token request"
# What a header can carry.
_TOKEN = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """
    The response of the token endpoint.

    :param lifetime: seconds.
    :param server_time: the response's ``Date`` as seconds since the epoch, or None.
    :param seconds: how long the request took.
    """

    access_token: str = field(repr=False)
    lifetime: float
    server_time: float | None
    seconds: float = 0.0


def token_request(settings: LucidworksSettings, scope: str) -> Request:
    """Build the documented request: Basic authentication, everything else in query and headers."""
    return Request(
        name=_NAME,
        method="POST",
        url=f"{settings.auth_url}/oauth2/{settings.auth_server_id}/v1/token",
        # The last response has the token that is valid.
        replayable=True,
        endpoint="token",
        params=(("scope", scope), ("grant_type", "client_credentials")),
        headers={
            "Accept": "application/json",
            "Cache-Control": "no-cache",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        basic=(settings.client_id, settings.client_secret),
    )


def parse_token_response(response: Response) -> TokenResponse:
    """
    Parse the response of the token endpoint.

    :raises AuthenticationError: the credentials or the scope were refused.
    :raises MalformedResponseError: a success without an access token.
    """
    try:
        check_status(response, _NAME)
    except ResponseError as err:
        if isinstance(err, ContentEncodingError) or (err.retryable and response.status != 401):
            raise
        raise _refusal(str(err), response.status) from None
    body = parse_object(response.body, _NAME, status=response.status)
    access_token = body.get("access_token")
    if "error" in body and not access_token:
        raise _refusal(f"{_NAME}: HTTP {response.status}: {vendor_message(response.body)}", response.status)
    if not isinstance(access_token, str) or not _TOKEN.fullmatch(access_token.strip()):
        # The body is not shown, as it may contain a token with another name.
        raise MalformedResponseError(
            f"{_NAME}: HTTP {response.status} without an `access_token`; fields: {sorted(body)!r}",
            status=response.status,
        )
    lifetime = _lifetime(body, access_token)
    return TokenResponse(
        access_token.strip(), lifetime, server_time(response) or _issued_at(access_token, lifetime)
    )


def _refusal(message: str, status: int) -> AuthenticationError:
    """The error of a refused request for a token, with what to check (RFC 6749, 5.2)."""
    if 300 <= status < 400 or status in {404, 405, 410}:
        check = "Check the fields auth_url and auth_server_id: there is no token endpoint at this address."
    elif "invalid_scope" in message:
        check = "Check the scopes of the integration that this Client ID belongs to."
    else:
        check = "Check Client ID and Client Secret."
    return AuthenticationError(f"{message.rstrip('.')}. {check}", status=status)


def _lifetime(body: dict[str, Any], access_token: str) -> float:
    """``expires_in``, else the token's own ``exp - iat``, else the documented hour."""
    try:
        seconds = float(body["expires_in"])
    except (KeyError, TypeError, ValueError, OverflowError):
        claims = _claims(access_token)
        try:
            seconds = float(claims["exp"]) - float(claims["iat"])
        except (KeyError, TypeError, ValueError, OverflowError):
            seconds = DEFAULT_LIFETIME
    return min(seconds, _LONGEST_LIFETIME) if seconds > 0 else DEFAULT_LIFETIME


def _issued_at(access_token: str, lifetime: float) -> float | None:
    """The server's clock by the token's own ``exp``, for responses without a ``Date``."""
    try:
        moment = float(_claims(access_token)["exp"]) - lifetime
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return moment if 0 < moment < float("inf") else None


def _claims(access_token: str) -> dict[str, Any]:
    """The payload of a JWT: base64url without padding; empty for anything else."""
    try:
        payload = access_token.split(".")[1]
        decoded = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError, RecursionError, binascii.Error):
        return {}
    return decoded if isinstance(decoded, dict) else {}


def server_time(response: Response) -> float | None:
    """The response's ``Date`` in seconds since the epoch; None where there is none, or a cache's."""
    if response.headers.get("age", "0").strip() != "0":
        return None
    try:
        return parsedate_to_datetime(response.headers["date"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
