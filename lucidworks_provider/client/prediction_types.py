# SPDX-License-Identifier: Apache-2.0
"""
Results of the Prediction API: one frozen, typed value for each input.

A field that this package does not know is kept in ``sent``; one that a use case should have and that is
missing or of another shape is an error only where nothing can be done without it (a vector, the scores).

Source: section 5 of the API reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from lucidworks_provider.client.http.messages import parse_json, reason_in, unusable_result
from lucidworks_provider.client.jobs import PREDICTION
from lucidworks_provider.client.options import is_count, is_number
from lucidworks_provider.errors import MalformedResponseError

_ERRORS = ("error", "errors", "errorMessage")
# Fields of a prediction that say nothing about its input.
_ASIDE = frozenset({"tokensUsed", "index", "status", "message", *_ERRORS})


@dataclass(frozen=True, slots=True)
class TokensUsed:
    """Tokens as the service reports them (section 3.5); None where it reports none."""

    input: int | None = None
    labels: int | None = None
    prompt: int | None = None
    completion: int | None = None
    total: int | None = None

    @classmethod
    def read(cls, value: object) -> TokensUsed:
        """From ``tokensUsed``; invalid values are None."""
        if not isinstance(value, Mapping):
            return cls()
        names = ("inputTokens", "labelsTokens", "promptTokens", "completionTokens", "totalTokens")
        return cls(*(int(value[n]) if is_count(value.get(n)) else None for n in names))

    @property
    def sum(self) -> int:
        """All that was used."""
        return self.total or sum(n or 0 for n in (self.input, self.labels, self.prompt, self.completion))


@dataclass(frozen=True, slots=True)
class Prediction:
    """
    Of any use case.

    :param sent: every field as the service sent it.
    :param response: the model's text.
    :param error: why there is no prediction for this input, where there is none.
    """

    # Values of the use case's own fields where there is an error.
    _absent: ClassVar[Mapping[str, Any]] = {}

    sent: Mapping[str, Any] = field(repr=False)
    response: str | None
    tokens_used: TokensUsed
    error: str | None

    @classmethod
    def read(cls, sent: Mapping[str, Any]) -> Self:
        """
        Read an element of ``predictions``.

        :raises MalformedResponseError: what the use case is about is not in it.
        """
        text = sent.get("response")
        error = _error(sent)
        return cls(
            sent=sent,
            response=text if isinstance(text, str) else None,
            tokens_used=TokensUsed.read(sent.get("tokensUsed")),
            error=error,
            **(cls._absent if error and cls._absent else cls._own(sent)),
        )

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a subclass."""
        return {}

    def row(self) -> dict[str, Any]:
        """As plain JSON under the vendor's names, with the documented shapes where there are two."""
        return dict(self.sent)

    def _with(self, name: str, read: Any) -> dict[str, Any]:
        """The row with a field as it was read; as it was sent, where nothing of it could be read."""
        sent = self.sent.get(name)
        return {**self.sent, name: sent if _says(sent) and not _says(read) else read}


@dataclass(frozen=True, slots=True)
class Embedding(Prediction):
    """
    Of ``embedding``.

    :param vector: floats, or integers when quantised.
    """

    _absent: ClassVar[Mapping[str, Any]] = {"vector": ()}

    vector: tuple[float, ...] = field(repr=False)

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        name = _vector_field(sent)
        if name is None:
            raise MalformedResponseError("a prediction without a vector", status=200)
        return {"vector": tuple(sent[name])}

    def row(self) -> dict[str, Any]:
        """As :meth:`Prediction.row`, with the vector as ``vector``, whatever the service calls it."""
        own = _vector_field(self.sent)
        others = {name: value for name, value in self.sent.items() if name != own}
        return others | {"vector": list(self.vector)}


@dataclass(frozen=True, slots=True)
class Classification(Prediction):
    """
    Of ``classification``.

    :param labels: score by label, the highest first, or None where the service gave only the label; the scores need
        not add up to 1. With ``topK`` or ``similarityCutoff`` fewer than were given, and possibly none.
    """

    _absent: ClassVar[Mapping[str, Any]] = {"labels": {}}

    labels: Mapping[str, float | None]

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        labels = _scores(sent.get("labels"))
        if labels is None:
            raise MalformedResponseError("a prediction without scores by label", status=200)
        # Without scores in the order of the service.
        ordered = sorted(labels.items(), key=lambda pair: -(pair[1] or 0.0))
        return {"labels": dict(ordered)}

    @property
    def label(self) -> str | None:
        """The label with the highest score, or None where none reached ``similarityCutoff``."""
        return next(iter(self.labels), None)

    def row(self) -> dict[str, Any]:
        """As :meth:`Prediction.row`, with the best ``label``."""
        return {**self.sent, "label": self.label, "labels": dict(self.labels)}


@dataclass(frozen=True, slots=True)
class RagAnswer(Prediction):
    """
    Of ``rag``.

    :param answer_found: whether the documents hold the answer, if the service said.
    :param sources: of the documents that the answer is from. One page shows a list, an older one a text.
    :param memory_uuid: of the conversation, for the ``use_case_config`` of the next request.
    """

    answer: str | None
    answer_found: bool | None
    sources: tuple[str, ...]
    memory_uuid: str | None

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        found = sent.get("answerFound")
        return {
            "answer": _text(sent.get("answer")),
            "answer_found": found if isinstance(found, bool) else None,
            "sources": _texts(sent.get("sources")),
            "memory_uuid": _text(sent.get("memoryUuid")),
        }

    def row(self) -> dict[str, Any]:
        """As :meth:`Prediction.row`."""
        return self._with("sources", list(self.sources))


@dataclass(frozen=True, slots=True)
class Keywords(Prediction):
    """
    Of ``keyword-extraction``.

    :param keywords: from ``keywords``, else from a list within ``response``; empty where the service sends them in
        another way (no page shows this response), see ``response`` then.
    """

    keywords: tuple[str, ...]

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        listed = sent.get("keywords")
        if listed is None:
            listed = _decoded(sent)
            listed = listed.get("keywords") if isinstance(listed, Mapping) else listed
        return {"keywords": _texts(listed)}

    def row(self) -> dict[str, Any]:
        """As :meth:`Prediction.row`."""
        return self._with("keywords", list(self.keywords))


@dataclass(frozen=True, slots=True)
class Entities(Prediction):
    """
    Of ``ner``.

    :param entities: names by type, from ``entities``, else from the JSON within ``response``.
    """

    entities: Mapping[str, tuple[str, ...]]

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        given = sent.get("entities")
        given = given if isinstance(given, Mapping) else _decoded(sent)
        given = given.get("entities", given) if isinstance(given, Mapping) else {}
        named = given.items() if isinstance(given, Mapping) else ()
        return {"entities": {str(kind): _texts(names) for kind, names in named}}

    def row(self) -> dict[str, Any]:
        """As :meth:`Prediction.row`."""
        return self._with("entities", {kind: list(names) for kind, names in self.entities.items()})


@dataclass(frozen=True, slots=True)
class Faq(Prediction):
    """
    Of ``faq-enrichment``.

    :param pairs: of question and answer, from the JSON list within ``response``, or any list of them beside
        it; empty where none can be read (the names of the fields are not documented), see ``response`` then.
    """

    pairs: tuple[tuple[str, str], ...]

    @classmethod
    def _own(cls, sent: Mapping[str, Any]) -> dict[str, Any]:
        for candidate in (_decoded(sent), *sent.values()):
            if pairs := _pairs(candidate):
                return {"pairs": pairs}
        return {"pairs": ()}

    def row(self) -> dict[str, Any]:
        """As :meth:`Prediction.row`."""
        return self._with("pairs", [{"question": q, "answer": a} for q, a in self.pairs])


def read_predictions(
    body: Mapping[str, Any], kind: type[Prediction], name: str, *, inputs: int | None = None
) -> tuple[Any, ...]:
    """
    Read the ``predictions`` of a response.

    :param kind: the type of one prediction.
    :param name: of the request, for messages.
    :param inputs: how many were sent: one prediction for each of them is expected, in their order.
    :raises MalformedResponseError: not that many, in no order, or one that cannot be read.
    """
    listed = body.get(PREDICTION.payload_field)
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise unusable_result(f"{name}: no list of `{PREDICTION.payload_field}`")
    if inputs is not None and len(listed) != inputs:
        raise unusable_result(f"{name}: {len(listed)} predictions for {inputs} inputs")
    read = []
    for position, one in enumerate(_in_order(listed, name)):
        try:
            read.append(kind.read(one))
        except MalformedResponseError as err:
            raise unusable_result(f"{name}: prediction {position}: {err}") from None
    return tuple(read)


def _error(sent: Mapping[str, Any]) -> str | None:
    """The error of a prediction, if it has one. An `error` that is null, empty or false is ignored."""
    status = str(sent.get("status") or "").upper()
    if any(map(sent.get, _ERRORS)) or "ERROR" in status or "FAIL" in status:
        return reason_in(sent) or "the service gave no reason"
    if all(value is None for name, value in sent.items() if name not in _ASIDE):
        reason = reason_in(sent)
        return "the service sent nothing for this input" + (f": {reason}" if reason else "")
    return None


def _scores(labels: object) -> Mapping[str, float | None] | None:
    """
    Score by label, from an object, a list of objects with label and score, or names without scores.

    :return: None where it is none of them.
    """
    if isinstance(labels, str):
        labels = [labels] if labels.strip() else []
    if isinstance(labels, Mapping):
        return labels if all(map(is_number, labels.values())) else None
    named = list(map(_labelled, labels)) if isinstance(labels, list) else [None]
    return None if None in named else dict(filter(None, named))


def _labelled(one: object) -> tuple[str, float | None] | None:
    """A label and its score, None where there is none; None for what is no label."""
    if isinstance(one, Mapping):
        name = next((one[key] for key in ("label", "name", "class") if key in one), None)
        score = next((one[key] for key in ("score", "probability", "value") if key in one), None)
    elif isinstance(one, list) and len(one) == 2:
        name, score = one
    else:
        name, score = one, None
    if not isinstance(name, str) or not (score is None or is_number(score)):
        return None
    return name, score


def _vector_field(sent: Mapping[str, Any]) -> str | None:
    """No page shows this response. As in that of chunking it is ``vector``; else the only list of numbers."""
    if _is_vector(sent.get("vector")):
        return "vector"
    lists = [name for name, value in sent.items() if _is_vector(value)]
    return lists[0] if len(lists) == 1 else None


def _is_vector(value: object) -> bool:
    # An embedding has a thousand numbers, so this is the fastest check.
    if not isinstance(value, list) or not value or not set(map(type, value)) <= {int, float}:
        return False
    try:
        return all(map(math.isfinite, value))
    except OverflowError:
        return False


def _says(value: object) -> bool:
    """Whether there is anything in it."""
    if isinstance(value, Mapping):
        return any(map(_says, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_says, value))
    return value is not None and value != ""


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value.strip() else None


def _texts(value: object) -> tuple[str, ...]:
    """A list of texts, however it was written."""
    if isinstance(value, str):
        decoded = parse_json(value.encode())
        value = decoded if isinstance(decoded, list) else value.splitlines()
    if not isinstance(value, list | tuple):
        return ()
    return tuple(str(one).strip() for one in value if isinstance(one, str | int | float) and str(one).strip())


def _decoded(sent: Mapping[str, Any]) -> Any:
    """The JSON within ``response``, which a model may wrap into a code fence."""
    text = sent.get("response")
    if not isinstance(text, str):
        return None
    text = text.strip().removeprefix("```json").removeprefix("```").removesuffix("```")
    return parse_json(text.encode())


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    if isinstance(value, Mapping):
        lists = [one for one in value.values() if isinstance(one, list)]
        value = lists[0] if len(lists) == 1 else None
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        return ()
    lowered = [{str(name).lower(): text for name, text in one.items()} for one in value]
    pairs = [
        (_text(one.get("question", one.get("q"))), _text(one.get("answer", one.get("a")))) for one in lowered
    ]
    return tuple((q, a) for q, a in pairs if q and a)


def _in_order(predictions: Sequence[Mapping[str, Any]], name: str) -> Sequence[Mapping[str, Any]]:
    """
    Predictions in the order of their inputs, where each has an ``index``.

    A full permutation, from 0 or from 1, is followed; equal numbers are ignored.

    :raises MalformedResponseError: not retryable; other numbers, or not for each prediction.
    """
    given = [one.get("index") for one in predictions]
    if len(set(map(str, given))) <= 1:
        return predictions
    try:
        numbers = [int(str(one)) for one in given]
    except ValueError:
        numbers = []
    for first in (0, 1):
        if sorted(numbers) == list(range(first, first + len(predictions))):
            return [
                one for _, one in sorted(zip(numbers, predictions, strict=True), key=lambda pair: pair[0])
            ]
    raise unusable_result(
        f"{name}: the predictions have the `index` {str(given)[:100]}, which does not define an order"
    )
