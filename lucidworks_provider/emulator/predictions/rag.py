# SPDX-License-Identifier: Apache-2.0
"""
Answers from documents, and the standalone query rewriter that goes on with their conversations (section 5.5).

The document that shares the most words with the question wins, and its best sentence is the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from lucidworks_provider.emulator.checks import Fields, InvalidRequest
from lucidworks_provider.emulator.predictions.ask import Answerer, Ask, Item, generated
from lucidworks_provider.emulator.sentences import COMMON_WORDS, content_words, sentence_spans, words
from lucidworks_provider.emulator.settings import SourcesShape

if TYPE_CHECKING:
    from collections.abc import Sequence

DOCUMENT_FIELDS = ("body", "source", "title", "date")
_NOT_FOUND = "The documents do not hold an answer."  # the vendor's own words are not seen [A]


@dataclass(frozen=True)
class Document:
    """One of the documents of an item."""

    body: str
    source: str
    words: frozenset[str]


def rag(ask: Ask) -> Answerer:
    """
    Check the documents and open or continue the conversations.

    A ``memoryUuid`` that the emulator does not know starts a conversation of that name, for one may have been
    forgotten [A]; without any, each item starts its own [A].
    """
    ask.generation()
    config = ask.config("memoryUuid", "extractRelevantContent", "answerNotFoundMessage")
    config.boolean("extractRelevantContent", False)
    given = _memory_uuid(config)
    not_found = config.text("answerNotFoundMessage", _NOT_FOUND) or _NOT_FOUND
    documents = [_documents(item, ignore_unknown=ask.ignore_unknown) for item in ask.items]
    as_string = ask.settings.sources_shape is SourcesShape.STRING
    conversations = [given or str(uuid4()) for _ in ask.items]
    histories = [ask.memory.history(name) for name in conversations]
    for item in ask.items:
        ask.memory.remember(conversations[item.index], item.text)

    def answer(item: Item) -> str:
        own = documents[item.index]
        best = _best(item.text, own)
        text = not_found if best is None else _sentence(item.text, own[best].body)
        sources = [] if best is None else [own[best].source]
        chosen = "" if best is None else f"- {best}\n"
        prompt = "\n".join([*histories[item.index], *(one.body for one in own), item.text])
        return generated(
            prompt,
            f"SOURCES:\n{chosen}ANSWER: {text}",
            answer=text,
            answerFound=best is not None,
            sources=", ".join(sources) if as_string else sources,
            memoryUuid=conversations[item.index],
        )

    return answer


def standalone_query_rewriter(ask: Ask) -> Answerer:
    """
    Put the words of the conversation's last question into the query.

    The query itself is not remembered, so a repeated request gets the same answer [A].
    """
    ask.generation()
    memory_uuid = _memory_uuid(ask.config("memoryUuid"))
    if memory_uuid is None:
        raise InvalidRequest("useCaseConfig.memoryUuid: required by this use case.")
    if memory_uuid not in ask.memory:
        raise InvalidRequest("useCaseConfig.memoryUuid: there is no such conversation.")
    history = ask.memory.history(memory_uuid)

    def answer(item: Item) -> str:
        prompt = "\n".join([*history, item.text])
        return generated(prompt, _rewritten(item.text, history[-1]))

    return answer


def _memory_uuid(config: Fields) -> str | None:
    text = config.text("memoryUuid")
    if text is None:
        return None
    try:
        return str(UUID(text))
    except ValueError:
        raise InvalidRequest("useCaseConfig.memoryUuid: a UUID is required.") from None


def _documents(item: Item, *, ignore_unknown: bool) -> list[Document]:
    """Check the documents of an item; one without any has no answer [A]."""
    name = item.fields.path("documents")
    value = item.fields.values.get("documents", [])
    if not isinstance(value, list):
        raise InvalidRequest(f"{name}: a list of documents is required.")
    documents: list[Document] = []
    for index, one in enumerate(value):
        fields = Fields.of(f"{name}[{index}]", one, DOCUMENT_FIELDS, ignore_unknown=ignore_unknown)
        body = fields.required_text("body")
        title = fields.text("title") or ""
        fields.text("date")
        documents.append(Document(body, fields.required_text("source"), frozenset(words(f"{title}\n{body}"))))
    return documents


def _best(question: str, documents: Sequence[Document]) -> int | None:
    """Return the number of the document with the most shared words, the first of equals; None without any."""
    asked = set(content_words(question))
    shared = [len(asked & one.words) for one in documents]
    return shared.index(max(shared)) if any(shared) else None


def _sentence(question: str, body: str) -> str:
    asked = set(content_words(question))
    sentences = [body[start:end] for start, end in sentence_spans(body)] or [body]
    return max(sentences, key=lambda one: len(asked & set(words(one))))


def _rewritten(query: str, question: str) -> str:
    stripped = query.rstrip(" ?!.")
    known = {*words(query), *COMMON_WORDS}
    added = [word for word in dict.fromkeys(words(question)) if word not in known]
    return " ".join([stripped, *added]) + ("?" if query.rstrip().endswith("?") else "")
