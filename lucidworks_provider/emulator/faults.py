# SPDX-License-Identifier: Apache-2.0
"""Injected faults: the next calls of an endpoint fail in a given way (section 15, "faults")."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


class EndpointName(Enum):
    """The vendor's endpoints, by the names used in faults and in the log."""

    TOKEN = "token"  # noqa: S105
    SUBMIT = "submit"
    POLL = "poll"
    USE_CASES = "usecases"
    PREDICT = "predict"
    SUBMIT_PREDICTION = "submit-prediction"
    POLL_PREDICTION = "poll-prediction"
    TOKENIZE = "tokenize"
    PREVIEW_PROMPT = "preview-prompt"
    LIST_MODELS = "list-models"
    CREATE_MODEL = "create-model"
    GET_MODEL = "get-model"
    LIST_MODEL_DEPLOYMENTS = "list-model-deployments"
    LIST_DEPLOYMENTS = "list-deployments"
    DEPLOY = "deploy"
    UNDEPLOY = "undeploy"


_SUBMISSIONS = {EndpointName.SUBMIT, EndpointName.SUBMIT_PREDICTION}
_POLLS = {EndpointName.POLL, EndpointName.POLL_PREDICTION}


class FaultKind(Enum):
    """What goes wrong."""

    NOT_MODIFIED = "304"
    BAD_REQUEST = "400"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    REQUEST_TIMEOUT = "408"
    CONFLICT = "409"
    TOO_EARLY = "425"
    TOO_MANY_REQUESTS = "429"
    INTERNAL_ERROR = "500"
    BAD_GATEWAY = "502"
    UNAVAILABLE = "503"
    GATEWAY_TIMEOUT = "504"
    UNAUTHORIZED = "unauthorized"
    TIMEOUT = "timeout"
    HTML = "html"
    CUT_JSON = "cut-json"
    DISCONNECT = "disconnect"
    DISCONNECT_AFTER = "disconnect-after"
    ERROR_AFTER = "error-after"
    SLOW = "slow"
    DRIP = "drip"
    ENDLESS = "endless"
    RESET = "reset"
    BR = "br"
    ZSTD = "zstd"
    EARLY_HINTS = "early-hints"
    QUOTED_KEYS = "quoted-keys"
    LEGACY_SHAPE = "legacy-shape"
    ERROR_JOB = "error-job"
    NEVER_ENDING = "never-ending"
    # In the documented shape, with a content that is wrong: see `unkind_answers`.
    NULL_PAYLOAD = "null-payload"
    EMPTY_PAYLOAD = "empty-payload"
    NO_CHUNKS = "no-chunks"
    ENVELOPE = "envelope"
    STATUS = "status"
    ERROR_BODY = "error-body"
    OTHER_ID = "other-id"
    PREVIOUS_ANSWER = "previous-answer"
    SAME_ID = "same-id"
    ID_NAME = "id-name"
    NO_ID = "no-id"
    LOWER_CASE = "lower-case"
    COMPOSED = "composed"
    OTHER_TEXT = "other-text"
    CUT_CHUNKS = "cut-chunks"
    NO_FIRST_CHUNK = "no-first-chunk"
    NO_MIDDLE_CHUNK = "no-middle-chunk"
    TWICE = "twice"
    LONG_VECTORS = "long-vectors"
    WHOLE_NUMBERS = "whole-numbers"
    FRACTIONS = "fractions"
    ZEROS = "zeros"
    ITEM_ERROR = "item-error"
    ITEM_NOTHING = "item-nothing"
    REVERSED = "reversed"
    INDEX = "index"
    LABELS = "labels"

    @property
    def status(self) -> int | None:
        """Return the HTTP status of the kinds that are one."""
        return int(self.value) if self.value.isdigit() else None

    def applies_to(self, endpoint: EndpointName) -> bool:
        """Return whether the kind applies there; a fault for "any" waits for a call that it applies to."""
        if self is FaultKind.NEVER_ENDING:
            return endpoint in _SUBMISSIONS
        if self is FaultKind.ERROR_JOB:
            return endpoint in _SUBMISSIONS | _POLLS
        for kinds, endpoints in _ONLY:
            if self in kinds:
                return endpoint in endpoints
        if self is FaultKind.LEGACY_SHAPE:  # only the results of chunking have an older shape
            return endpoint in {EndpointName.SUBMIT, EndpointName.POLL}
        return True


_ANSWERS = _POLLS | {EndpointName.PREDICT}
_ONLY = (
    ({FaultKind.SAME_ID, FaultKind.ID_NAME, FaultKind.NO_ID}, _SUBMISSIONS),
    ({FaultKind.STATUS, FaultKind.ERROR_BODY, FaultKind.OTHER_ID, FaultKind.PREVIOUS_ANSWER}, _POLLS),
    ({FaultKind.NULL_PAYLOAD, FaultKind.EMPTY_PAYLOAD}, _ANSWERS),
    (
        {
            FaultKind.NO_CHUNKS,
            FaultKind.LOWER_CASE,
            FaultKind.COMPOSED,
            FaultKind.OTHER_TEXT,
            FaultKind.CUT_CHUNKS,
            FaultKind.NO_FIRST_CHUNK,
            FaultKind.NO_MIDDLE_CHUNK,
            FaultKind.TWICE,
        },
        {EndpointName.POLL},
    ),
    (
        {FaultKind.LONG_VECTORS, FaultKind.WHOLE_NUMBERS, FaultKind.FRACTIONS, FaultKind.ZEROS},
        {EndpointName.POLL, EndpointName.PREDICT},
    ),
    (
        {FaultKind.ITEM_ERROR, FaultKind.ITEM_NOTHING, FaultKind.REVERSED, FaultKind.INDEX},
        {EndpointName.POLL_PREDICTION, EndpointName.PREDICT},
    ),
    ({FaultKind.LABELS}, {EndpointName.PREDICT}),
)
_DELAYS = {FaultKind.TIMEOUT: 30.0, FaultKind.DRIP: 1.0}


class FaultError(ValueError):
    """A fault that cannot be parsed."""


@dataclass
class Fault:
    """
    An injected fault; ``match`` None means any endpoint.

    :param retry_after: seconds; with ``as_date`` the header is a moment so far from now.
    :param value: what some kinds put into the answer, e.g. the word of ``status``.
    """

    kind: FaultKind
    match: EndpointName | None = None
    times: int = 1
    retry_after: float | None = None
    as_date: bool = False
    delay: float = 0.0
    value: str = ""
    # Of the first answer, where later ones repeat something of it.
    kept: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Fault:
        """Parse a fault of the control endpoint."""
        unknown = sorted(set(given) - {"kind", "match", "times", "retry_after", "as_date", "delay", "value"})
        if unknown:
            raise FaultError(f"unknown field {unknown[0]!r}")
        match = given.get("match", "any")
        try:
            kind = FaultKind(str(given.get("kind")))
            endpoint = None if match == "any" else EndpointName(match)
        except ValueError as wrong:
            raise FaultError(str(wrong)) from None
        if endpoint is not None and not kind.applies_to(endpoint):
            raise FaultError(f"{kind.value} means nothing for {endpoint.value}")
        times = given.get("times", 1)
        if isinstance(times, bool) or not isinstance(times, int) or times < 1:
            raise FaultError("times: an integer of at least 1")
        return cls(
            kind,
            endpoint,
            times,
            retry_after=_seconds("retry_after", given.get("retry_after")),
            as_date=given.get("as_date") is True,
            delay=_seconds("delay", given.get("delay")) or _DELAYS.get(kind, 0.0),
            value=str(given.get("value", "")),
        )

    def public(self) -> dict[str, object]:
        """Return the order as JSON values."""
        return {
            "kind": self.kind.value,
            "match": self.match.value if self.match else "any",
            "times": self.times,
            "retry_after": self.retry_after,
            "as_date": self.as_date,
            "delay": self.delay,
            "value": self.value,
        }


class FaultRegistry:
    """The faults to come, in the order in which they were injected."""

    def __init__(self) -> None:
        self._open: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        """Add a fault."""
        self._open.append(fault)

    def take(self, endpoint: EndpointName) -> Fault | None:
        """Use up one count of the first fault that applies to a call."""
        for fault in self._open:
            if fault.match in {None, endpoint} and fault.kind.applies_to(endpoint):
                fault.times -= 1
                if fault.times == 0:
                    self._open.remove(fault)
                return fault
        return None

    def open(self) -> list[Fault]:
        """Return the faults that are not used up."""
        return list(self._open)

    def clear(self) -> None:
        """Remove every fault."""
        self._open.clear()


def _seconds(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise FaultError(f"{name}: seconds, not negative")
    return float(value)
