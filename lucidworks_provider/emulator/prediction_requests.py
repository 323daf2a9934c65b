# SPDX-License-Identifier: Apache-2.0
"""
A prediction request: batch, ``modelConfig`` (section 3.2) and conversations (section 5.5).

A use case turns an :class:`Ask` into an :data:`Answerer`: everything that can be refused is refused then, in
the event loop, and the answerer, which may run in a worker thread, only computes.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, batch_of
from lucidworks_provider.emulator.models import OPENAI
from lucidworks_provider.emulator.sentences import count_tokens, truncate_tokens
from lucidworks_provider.emulator.settings import BatchOverflow

if TYPE_CHECKING:
    from lucidworks_provider.emulator.models import EmbeddingModel
    from lucidworks_provider.emulator.settings import EmulatorSettings

_TEXTS = ("apiKey", "azureDeployment", "azureEndpoint", "googleProjectId", "googleRegion")
_FIELDS = ("temperature", "topP", "topK", "presencePenalty", "frequencyPenalty", "maxTokens", *_TEXTS)
_PENALTY = 2.0  # the range is not seen; the examples have 1 and 2 [A]


@dataclass(frozen=True)
class Generation:
    """The settings of one call of a generative model; all have documented defaults."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, body: Fields, model_id: str, *, managed_keys: bool, ignore_unknown: bool) -> Generation:
        """Check the object."""
        config = body.object("modelConfig", _FIELDS, ignore_unknown=ignore_unknown)
        for name in ("presencePenalty", "frequencyPenalty"):
            config.number(name, 0.0, minimum=-_PENALTY, maximum=_PENALTY)
        _check_top_k(config)
        texts = {name: config.text(name) for name in _TEXTS}
        if ("azureDeployment" in config) != ("azureEndpoint" in config):
            raise InvalidRequest("modelConfig: azureDeployment and azureEndpoint are required together.")
        third_party = model_id in OPENAI or "azureEndpoint" in config
        if third_party and texts["apiKey"] is None and not managed_keys:
            raise InvalidRequest("modelConfig.apiKey: required for models of a third party.")
        return cls(
            temperature=config.number("temperature", cls.temperature, minimum=0, maximum=2),
            top_p=config.number("topP", cls.top_p, minimum=0, maximum=1),
            max_tokens=config.integer("maxTokens", cls.max_tokens, minimum=1),
            api_key=texts["apiKey"],
        )

    def cut(self, response: str) -> str:
        """End a text where the model would have to stop."""
        return truncate_tokens(response, self.max_tokens)[0].rstrip()


def _check_top_k(config: Fields) -> None:
    """Accept -1 for all tokens, which the newer set of defaults writes as -1.0."""
    if "topK" not in config:
        return
    value = config.values["topK"]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < -1 or value == 0:
        raise InvalidRequest("modelConfig.topK: an integer of at least 1, or -1, is required.")


_CONVERSATIONS = 10_000
_QUESTIONS = 16


class Conversations:
    """The last questions of each conversation."""

    def __init__(self) -> None:
        self._questions: dict[str, deque[str]] = {}

    def __contains__(self, memory_uuid: str) -> bool:
        """Return whether a conversation is known."""
        return memory_uuid.lower() in self._questions

    def __len__(self) -> int:
        """Return the number of conversations kept."""
        return len(self._questions)

    def remember(self, memory_uuid: str, question: str) -> None:
        """Add a question, and forget the oldest conversation when there are too many."""
        questions = self._questions.setdefault(memory_uuid.lower(), deque(maxlen=_QUESTIONS))
        questions.append(question)
        while len(self._questions) > _CONVERSATIONS:
            del self._questions[next(iter(self._questions))]

    def history(self, memory_uuid: str) -> tuple[str, ...]:
        """Return the questions of a conversation, oldest first."""
        return tuple(self._questions.get(memory_uuid.lower(), ()))

    def clear(self) -> None:
        """Forget everything."""
        self._questions.clear()


LARGEST_BATCH = 32
"""Documented for both prediction APIs (section 3.1)."""


@dataclass(frozen=True)
class Item:
    """One element of ``batch``."""

    index: int
    text: str
    fields: Fields


Answerer: TypeAlias = Callable[[Item], str]
"""Gives the JSON of one element of ``predictions``."""


@dataclass(frozen=True)
class Ask:
    """A request whose batch is checked; the configuration is checked by the use case."""

    model_id: str
    embedding_model: EmbeddingModel | None
    body: Fields
    items: tuple[Item, ...]
    settings: EmulatorSettings
    memory: Conversations
    ignore_unknown: bool

    def config(self, *allowed: str) -> Fields:
        """Return ``useCaseConfig``."""
        return self.body.object("useCaseConfig", allowed, ignore_unknown=self.ignore_unknown)

    def generation(self) -> Generation:
        """Return the ``modelConfig`` of a generative model."""
        return Generation.of(
            self.body,
            self.model_id,
            managed_keys=self.settings.managed_keys,
            ignore_unknown=self.ignore_unknown,
        )


def items_of(
    body: Fields, allowed: tuple[str, ...], overflow: BatchOverflow, *, ignore_unknown: bool
) -> tuple[Item, ...]:
    """Check ``batch`` and its length; what the vendor does with 33 items is not documented [A]."""
    batch = body.values.get("batch")
    if isinstance(batch, list) and len(batch) > LARGEST_BATCH:
        if overflow is BatchOverflow.BAD_REQUEST:
            raise InvalidRequest(f"batch: at most {LARGEST_BATCH} items are accepted.")
        body = Fields(body.name, {**body.values, "batch": batch[:LARGEST_BATCH]})
    checked = batch_of(body, allowed, ignore_unknown=ignore_unknown)
    return tuple(Item(index, one.required_text("text"), one) for index, one in enumerate(checked))


def generated(prompt: str, response: str, **fields: object) -> str:
    """Write an element of a generative use case, with the counts of section 3.5."""
    prompt_tokens, completion_tokens = count_tokens(prompt), count_tokens(response)
    return dump(
        {
            "tokensUsed": {
                "promptTokens": prompt_tokens,
                "completionTokens": completion_tokens,
                "totalTokens": prompt_tokens + completion_tokens,
            },
            **fields,
            "response": response,
        }
    )


def dump(value: object) -> str:
    """Write compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
