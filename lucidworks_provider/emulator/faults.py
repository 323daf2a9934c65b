# SPDX-License-Identifier: Apache-2.0
"""Injected faults: the next calls of an endpoint fail in a given way (section 15, "faults")."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from lucidworks_provider.emulator.rules import (
    Default,
    InvalidValue,
    boolean,
    check,
    integer,
    member_of,
    nullable,
    number,
    required,
)

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


_SUBMISSIONS = (EndpointName.SUBMIT, EndpointName.SUBMIT_PREDICTION)
_POLLS = (EndpointName.POLL, EndpointName.POLL_PREDICTION)
_VECTORS = (EndpointName.POLL, EndpointName.PREDICT)
_PREDICTIONS = (EndpointName.POLL_PREDICTION, EndpointName.PREDICT)


class FaultKind(Enum):
    """What goes wrong, and at which endpoints: at all if none is named."""

    _value_: str
    endpoints: frozenset[EndpointName]

    def __new__(cls, value: str, *endpoints: EndpointName) -> FaultKind:
        """Keep the endpoints beside the value."""
        kind = object.__new__(cls)
        kind._value_ = value
        kind.endpoints = frozenset(endpoints or EndpointName)
        return kind

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
    LEGACY_SHAPE = "legacy-shape", EndpointName.SUBMIT, EndpointName.POLL
    ERROR_JOB = "error-job", *_SUBMISSIONS, *_POLLS
    NEVER_ENDING = "never-ending", *_SUBMISSIONS
    # In the documented shape, with a content that is wrong: see `broken_responses`.
    NULL_PAYLOAD = "null-payload", *_POLLS, EndpointName.PREDICT
    EMPTY_PAYLOAD = "empty-payload", *_POLLS, EndpointName.PREDICT
    ENVELOPE = "envelope"
    STATUS = "status", *_POLLS
    ERROR_BODY = "error-body", *_POLLS
    OTHER_ID = "other-id", *_POLLS
    PREVIOUS_ANSWER = "previous-answer", *_POLLS
    SAME_ID = "same-id", *_SUBMISSIONS
    ID_NAME = "id-name", *_SUBMISSIONS
    NO_ID = "no-id", *_SUBMISSIONS
    NO_CHUNKS = "no-chunks", EndpointName.POLL
    LOWER_CASE = "lower-case", EndpointName.POLL
    COMPOSED = "composed", EndpointName.POLL
    OTHER_TEXT = "other-text", EndpointName.POLL
    CUT_CHUNKS = "cut-chunks", EndpointName.POLL
    NO_FIRST_CHUNK = "no-first-chunk", EndpointName.POLL
    NO_MIDDLE_CHUNK = "no-middle-chunk", EndpointName.POLL
    TWICE = "twice", EndpointName.POLL
    LONG_VECTORS = "long-vectors", *_VECTORS
    WHOLE_NUMBERS = "whole-numbers", *_VECTORS
    FRACTIONS = "fractions", *_VECTORS
    ZEROS = "zeros", *_VECTORS
    ITEM_ERROR = "item-error", *_PREDICTIONS
    ITEM_NOTHING = "item-nothing", *_PREDICTIONS
    REVERSED = "reversed", *_PREDICTIONS
    INDEX = "index", *_PREDICTIONS
    LABELS = "labels", EndpointName.PREDICT

    @property
    def status(self) -> int | None:
        """Return the HTTP status of the kinds that are one."""
        return int(self.value) if self.value.isdigit() else None


_DELAYS = {FaultKind.TIMEOUT: 30.0, FaultKind.DRIP: 1.0}


def _endpoint(name: str, value: Any) -> EndpointName | None:
    return None if value == "any" else member_of(EndpointName)(name, value)


_RULES = {
    "kind": required(member_of(FaultKind)),
    "match": Default(_endpoint, "any"),
    "times": Default(integer(1), 1),
    "retry_after": Default(nullable(number(0)), None),
    "as_date": Default(boolean, False),
    "delay": Default(nullable(number(0)), None),
    "value": Default(lambda _, value: str(value), ""),
}


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
        fault = cls(**check("fault", dict(given), _RULES))
        if fault.match not in {None, *fault.kind.endpoints}:
            raise InvalidValue(f"{fault.kind.value} means nothing for {given['match']}")
        fault.delay = fault.delay or _DELAYS.get(fault.kind, 0.0)
        return fault

    def public(self) -> dict[str, object]:
        """Return the order as JSON values."""
        shown = dataclasses.asdict(self)
        del shown["kept"]
        return {**shown, "kind": self.kind.value, "match": self.match.value if self.match else "any"}


class FaultRegistry:
    """The faults to come, in the order in which they were injected."""

    def __init__(self) -> None:
        self._open: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        """Add a fault."""
        self._open.append(fault)

    def take(self, endpoint: EndpointName) -> Fault | None:
        """Use up one count of the first fault that applies to a call; others wait for one that they apply to."""
        for fault in self._open:
            if fault.match in {None, endpoint} and endpoint in fault.kind.endpoints:
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
