# SPDX-License-Identifier: Apache-2.0
"""
What the pass-through use case sends to a model (sections 5.4 and 9).

``dataType`` wins over ``useSystemPrompt``. Of its values only ``json_prompt`` is explained by an example; for
``text`` one user message in the model's own format is assumed [A]. The formats are those of the model
families, the words of the generic system prompt are made up [A].
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, load_json

if TYPE_CHECKING:
    from lucidworks_provider.emulator.predictions.ask import Ask, Item

_SYSTEM_PROMPT = "You are a helpful assistant. Answer as briefly and as truthfully as you can."
_ROLES = ("system", "user", "assistant")


class TextKind(Enum):
    """The values seen for ``useCaseConfig.dataType`` of this use case."""

    TEXT = "text"
    JSON_PROMPT = "json_prompt"


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompter:
    """How one request turns its texts into prompts."""

    model_id: str
    kind: TextKind | None
    use_system_prompt: bool

    @classmethod
    def of(cls, ask: Ask) -> Prompter:
        """Check ``useCaseConfig`` and every text; the default of useSystemPrompt is not documented [A]."""
        config = ask.config("useSystemPrompt", "dataType")
        prompter = cls(
            ask.model_id, config.choice("dataType", TextKind), config.boolean("useSystemPrompt", False)
        )
        for item in ask.items:
            prompter.messages(item)
        return prompter

    def messages(self, item: Item) -> list[Message]:
        """Return the turns of an item."""
        if self.kind is TextKind.JSON_PROMPT:
            return _parse(f"batch[{item.index}].text", item.text)
        own = Message("user", item.text)
        if self.kind is None and self.use_system_prompt:
            return [Message("system", _SYSTEM_PROMPT), own]
        return [own]

    def prompt(self, item: Item) -> str:
        """Return the text that the model would get."""
        if self.kind is None and not self.use_system_prompt:
            return item.text
        return _render(self.model_id, self.messages(item))

    def last_words(self, item: Item) -> str:
        """Return what the emulator echoes: the text, or the last message of a user."""
        messages = self.messages(item)
        asked = [one.content for one in messages if one.role == "user"]
        return asked[-1] if asked else messages[-1].content


def _parse(name: str, text: str) -> list[Message]:
    try:
        turns = load_json(text.encode())
    except InvalidRequest:
        turns = None
    if not isinstance(turns, list) or not turns:
        raise InvalidRequest(f"{name}: json_prompt requires a JSON list of messages in the text.")
    messages: list[Message] = []
    for index, turn in enumerate(turns):
        fields = Fields.of(f"{name}[{index}]", turn, ("role", "content"))
        role = fields.required_text("role")
        if role not in _ROLES:
            raise InvalidRequest(f"{name}[{index}].role: one of {', '.join(_ROLES)} is required.")
        messages.append(Message(role, fields.required_text("content")))
    return messages


def _render(model_id: str, messages: Sequence[Message]) -> str:
    if model_id.startswith("llama"):
        turns = (
            f"<|start_header_id|>{one.role}<|end_header_id|>\n\n{one.content}<|eot_id|>" for one in messages
        )
        return f"<|begin_of_text|>{''.join(turns)}<|start_header_id|>assistant<|end_header_id|>\n\n"
    if model_id.startswith("mistral"):
        joined = "\n\n".join(one.content for one in messages)
        return f"<s>[INST] {joined} [/INST]"
    return json.dumps([{"role": one.role, "content": one.content} for one in messages], ensure_ascii=False)
