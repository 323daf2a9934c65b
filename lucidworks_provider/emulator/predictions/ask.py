# SPDX-License-Identifier: Apache-2.0
"""
One prediction request on its way from the body to the answers.

A use case turns an :class:`Ask` into an :data:`Answerer`: everything that can be refused is refused then, in
the event loop, and the answerer, which may run in a worker thread, only computes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, batch_of
from lucidworks_provider.emulator.predictions.generation import Generation
from lucidworks_provider.emulator.sentences import count_tokens
from lucidworks_provider.emulator.settings import BatchOverflow

if TYPE_CHECKING:
    from lucidworks_provider.emulator.models import EmbeddingModel
    from lucidworks_provider.emulator.predictions.memory import Conversations
    from lucidworks_provider.emulator.settings import EmulatorSettings

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
