# SPDX-License-Identifier: Apache-2.0
"""Injected faults: the next calls of an endpoint fail in a given way (section 15, "faults")."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from enum import StrEnum
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
    one_of,
    required,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class EndpointName(StrEnum):
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


# The kinds of faults, by the endpoints where they mean something.
_KINDS = {
    " ".join(EndpointName): """
        304 400 403 404 408 409 425 429 500 502 503 504 unauthorized timeout html cut-json disconnect
        disconnect-after error-after slow drip endless reset br zstd early-hints quoted-keys envelope
    """,
    "submit submit-prediction": "never-ending same-id id-name no-id",
    "poll poll-prediction": "status error-body other-id previous-response",
    "submit submit-prediction poll poll-prediction": "error-job",
    "poll poll-prediction predict": "null-payload empty-payload",
    "submit poll": "legacy-shape",
    "poll": "no-chunks lower-case composed other-text cut-chunks no-first-chunk no-middle-chunk twice",
    "poll predict": "long-vectors whole-numbers fractions zeros",
    "poll-prediction predict": "item-error item-nothing reversed index",
    "predict": "labels",
}
KINDS = {kind: endpoints.split() for endpoints, kinds in _KINDS.items() for kind in kinds.split()}
_DELAYS = {"timeout": 30.0, "drip": 1.0}
_VALUES = {"reversed": r"\d*", "index": r"(\d+(,\d+)*)?"}


def _endpoint(name: str, value: Any) -> EndpointName | None:
    return None if value == "any" else member_of(EndpointName)(name, value)


_RULES = {
    "kind": required(one_of(*KINDS)),
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
    :param value: what some kinds put into the response, e.g. the word of ``status``.
    """

    kind: str
    match: EndpointName | None = None
    times: int = 1
    retry_after: float | None = None
    as_date: bool = False
    delay: float = 0.0
    value: str = ""
    # Of the first response, where later ones repeat something of it.
    kept: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Fault:
        checked = check("fault", dict(given), _RULES)
        if checked["delay"] is None:
            checked["delay"] = _DELAYS.get(checked["kind"], 0.0)
        fault = cls(**checked)
        if fault.match not in {None, *KINDS[fault.kind]}:
            raise InvalidValue(f"{fault.kind} means nothing for {given['match']}")
        if fault.kind in _VALUES and not re.fullmatch(_VALUES[fault.kind], fault.value):
            raise InvalidValue(f"value: {fault.kind} has no such value.")
        return fault

    def public(self) -> dict[str, object]:
        shown = dataclasses.asdict(self)
        del shown["kept"]
        return {**shown, "match": self.match or "any"}


class FaultRegistry:
    """The faults to come, in the order in which they were injected."""

    def __init__(self) -> None:
        self._open: list[Fault] = []

    def inject(self, fault: Fault) -> None:
        self._open.append(fault)

    def take(self, endpoint: EndpointName) -> Fault | None:
        """Use up one count of the first fault that applies to a call; others wait for one that they apply to."""
        for fault in self._open:
            if fault.match in {None, endpoint} and endpoint in KINDS[fault.kind]:
                fault.times -= 1
                if fault.times == 0:
                    self._open.remove(fault)
                return fault
        return None

    def open(self) -> list[Fault]:
        return list(self._open)

    def clear(self) -> None:
        self._open.clear()
