# SPDX-License-Identifier: Apache-2.0
"""
The answers of the nine use cases, and the prompts of the pass-through use case (sections 5 and 9).

``dataType`` wins over ``useSystemPrompt``. Of its values only ``json_prompt`` is explained by an example; for
``text`` one user message in the model's own format is assumed [A]. The formats are those of the model
families, the words of the generic system prompt are made up [A].
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from uuid import UUID, uuid4

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, load_json, non_empty, strings
from lucidworks_provider.emulator.prediction_requests import Answerer, Ask, Item, dump, generated
from lucidworks_provider.emulator.sentences import (
    COMMON_WORDS,
    content_words,
    count_tokens,
    sentence_spans,
    truncate_words,
    words,
)
from lucidworks_provider.emulator.settings import SourcesShape
from lucidworks_provider.emulator.vectors import VectorOptions

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


EMBEDDED_WORDS = 256
"""About so many words of a text count, says the embedding page; without notice (section 5.2)."""

_STEPS = 4096  # the example's scores are multiples of 1/4096


def embedding(ask: Ask) -> Answerer:
    """Return the vectors of the texts, in a field whose name is not documented [A]."""
    if ask.embedding_model is None:  # the path has been resolved before
        raise InvalidRequest("The model embeds nothing.")
    options = VectorOptions.of(ask.body, ask.embedding_model, ignore_unknown=ask.ignore_unknown)
    field = ask.settings.embedding_shape
    return lambda item: options.to_json(truncate_words(item.text, EMBEDDED_WORDS), field)


def classification(ask: Ask) -> Answerer:
    """
    Score each label by a hash of model, label and text, best first; scores need not add up to 1.

    ``topK`` and ``similarityCutoff`` leave labels out, possibly all of them.
    """
    ask.generation()
    config = ask.config("labels", "topK", "similarityCutoff")
    labels = strings("useCaseConfig.labels", config.values.get("labels"))
    most = config.integer("topK", max(len(labels), 1), minimum=1)
    cutoff = config.number("similarityCutoff", -1.0, minimum=-1.0, maximum=1.0)
    if not labels or len(set(labels)) < len(labels):
        raise InvalidRequest("useCaseConfig.labels: at least one label, each once, is required.")
    label_tokens = sum(count_tokens(label) for label in labels)

    def answer(item: Item) -> str:
        scores = {label: _score(ask.model_id, label, item.text) for label in labels}
        best = sorted(scores.items(), key=lambda pair: -pair[1])[:most]
        ranked = {label: score for label, score in best if score >= cutoff}
        return dump(
            {
                "tokensUsed": {"inputTokens": count_tokens(item.text), "labelsTokens": label_tokens},
                "labels": ranked,
                "response": ", ".join(f"{label}: {score:.2f}" for label, score in ranked.items()),
            }
        )

    return answer


def _score(*parts: str) -> float:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _STEPS / _STEPS


_EXAMPLE = 100  # maxWords and maxKeywords of the vendor's examples; their defaults are not seen [A]
_QUESTIONS = 5
_ENTITY_TYPES = ("person", "location", "organization")  # without an entityTypeMap [A]
_NAME = re.compile(r"[^\W\d_][\w’'-]*")


def passthrough(ask: Ask) -> Answerer:
    """Echo the text, or the last message of a user."""
    generation, prompter = ask.generation(), Prompter.of(ask)
    return lambda item: generated(prompter.prompt(item), generation.cut(prompter.last_words(item)))


def summarization(ask: Ask) -> Answerer:
    """Return the first words."""
    generation = ask.generation()
    most = ask.config("maxWords").integer("maxWords", _EXAMPLE, minimum=1)
    return lambda item: generated(item.text, generation.cut(truncate_words(item.text.strip(), most)))


def keyword_extraction(ask: Ask) -> Answerer:
    """Return the most frequent words; the list beside ``response`` is called ``keywords`` [A]."""
    ask.generation()
    most = ask.config("maxKeywords").integer("maxKeywords", _EXAMPLE, minimum=1)

    def answer(item: Item) -> str:
        found = [word for word, _ in Counter(content_words(item.text)).most_common(most)]
        return generated(item.text, ", ".join(found), keywords=found)

    return answer


def ner(ask: Ask) -> Answerer:
    """Return capitalised words as entities, and the same as JSON in ``response``."""
    ask.generation()
    examples = _entity_types(ask.config("entityTypeMap"))

    def answer(item: Item) -> str:
        entities: dict[str, list[str]] = {name: [] for name in examples}
        for entity in _names(item.text):
            entities[_type_of(entity, examples)].append(entity)
        return generated(item.text, dump(entities), entities=entities)

    return answer


def faq_enrichment(ask: Ask) -> Answerer:
    """Return a JSON list of questions and answers inside ``response``; the names of its fields are [A]."""
    ask.generation()
    ask.config()

    def answer(item: Item) -> str:
        sentences = [item.text[start:end] for start, end in sentence_spans(item.text)[:_QUESTIONS]]
        pairs = [{"question": _question(sentence), "answer": sentence} for sentence in sentences]
        return generated(item.text, dump(pairs))

    return answer


def _entity_types(config: Fields) -> dict[str, frozenset[str]]:
    name = config.path("entityTypeMap")
    value = config.values.get("entityTypeMap", {})
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: an object of lists of strings is required.")
    types = {
        non_empty(f"{name}, name of a type", kind): frozenset(
            one.casefold() for one in strings(f"{name}.{kind}", examples)
        )
        for kind, examples in value.items()
    }
    return types or dict.fromkeys(_ENTITY_TYPES, frozenset())


def _names(text: str) -> list[str]:
    """Return runs of capitalised words, each once, without common words at the beginning of a sentence."""
    runs: list[list[re.Match[str]]] = []
    for word in _NAME.finditer(text):
        if not word.group()[0].isupper():
            continue
        if runs and text[runs[-1][-1].end() : word.start()] == " ":
            runs[-1].append(word)
        elif word.group().lower() not in COMMON_WORDS:
            runs.append([word])
    return list(dict.fromkeys(text[run[0].start() : run[-1].end()] for run in runs))


def _type_of(entity: str, examples: dict[str, frozenset[str]]) -> str:
    for kind, known in examples.items():
        if entity.casefold() in known:
            return kind
    kinds = list(examples)  # entities need not be in the catalog (section 5.6)
    return kinds[hashlib.blake2b(entity.encode(), digest_size=1).digest()[0] % len(kinds)]


def _question(sentence: str) -> str:
    subject = " ".join(content_words(sentence)[:3])
    return f"What is said about {subject}?" if subject else "What is said?"


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
