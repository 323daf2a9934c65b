# SPDX-License-Identifier: Apache-2.0
"""
The nine use cases: what their requests may hold, and how the emulator makes their predictions up (section 5).

A use case turns an :class:`Ask` into an :data:`Answerer`: everything that can be refused is refused then, in
the event loop, and the answerer, which may run in a worker thread, only computes.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import uuid4

from lucidworks_provider.emulator.models import EMBEDDING_MODELS, HOSTED_GENERATIVE, NER_ONLY, OPENAI
from lucidworks_provider.emulator.rules import (
    Default,
    InvalidValue,
    Rule,
    boolean,
    check,
    integer,
    load_json,
    number,
    one_of,
    required,
    table_of,
    text,
    uuid,
)
from lucidworks_provider.emulator.sentences import (
    COMMON_WORDS,
    content_words,
    count_tokens,
    sentence_spans,
    truncate_tokens,
    truncate_words,
    words,
)
from lucidworks_provider.emulator.vectors import VectorOptions

if TYPE_CHECKING:
    from lucidworks_provider.emulator.models import EmbeddingModel
    from lucidworks_provider.emulator.settings import EmulatorSettings

EMBEDDED_WORDS = 256
"""About so many words of a text count, says the embedding page; without notice (section 5.2)."""

LARGEST_BATCH = 32
"""Documented for both prediction APIs (section 3.1)."""


def _top_k(name: str, value: Any) -> int:
    """Accept -1 for all tokens, which the newer set of defaults writes as -1.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value == 0:
        raise InvalidValue(f"{name}: at least 1, or -1, is required.")
    return integer(-1)(name, value)


# The range of the penalties is not seen; the examples have 1 and 2 [A].
MODEL_CONFIG: Mapping[str, Rule | Default] = {
    "temperature": number(0, 2),
    "topP": number(0, 1),
    "topK": _top_k,
    "presencePenalty": number(-2, 2),
    "frequencyPenalty": number(-2, 2),
    "maxTokens": Default(integer(1), 256),
    **dict.fromkeys(("apiKey", "azureDeployment", "azureEndpoint", "googleProjectId", "googleRegion"), text),
}

_CONVERSATIONS = 10_000
_QUESTIONS = 16


class Conversations(dict[str, deque[str]]):
    """The last questions of each conversation, by its UUID."""

    def remember(self, memory_uuid: str, question: str) -> None:
        """Add a question, and forget the oldest conversation when there are too many."""
        self.setdefault(memory_uuid, deque(maxlen=_QUESTIONS)).append(question)
        if len(self) > _CONVERSATIONS:
            del self[next(iter(self))]


Answerer: TypeAlias = Callable[[int], str]
"""Gives the JSON of one element of ``predictions``, by its position."""


@dataclass(frozen=True)
class Ask:
    """A request whose body has been checked by the rules of its use case."""

    model_id: str
    embedding_model: EmbeddingModel | None
    body: Mapping[str, Any]
    items: Sequence[Mapping[str, Any]]
    settings: EmulatorSettings
    memory: Conversations

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.body["useCaseConfig"]
        return config

    def text(self, at: int) -> str:
        text: str = self.items[at]["text"]
        return text

    def cut(self, response: str) -> str:
        """End a text where the model would have to stop."""
        return truncate_tokens(response, self.body["modelConfig"]["maxTokens"])[0].rstrip()


def check_keys(model_id: str, config: Mapping[str, Any], *, managed_keys: bool) -> None:
    """Refuse a ``modelConfig`` that lacks what a third party's model needs."""
    if ("azureDeployment" in config) != ("azureEndpoint" in config):
        raise InvalidValue("modelConfig: azureDeployment and azureEndpoint are required together.")
    third_party = model_id in OPENAI or "azureEndpoint" in config
    if third_party and "apiKey" not in config and not managed_keys:
        raise InvalidValue("modelConfig.apiKey: required for models of a third party.")


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _generated(prompt: str, response: str, **fields: object) -> str:
    """Write an element of a generative use case, with the counts of section 3.5."""
    prompt_tokens, completion_tokens = count_tokens(prompt), count_tokens(response)
    counts = {
        "promptTokens": prompt_tokens,
        "completionTokens": completion_tokens,
        "totalTokens": prompt_tokens + completion_tokens,
    }
    return _dump({"tokensUsed": counts, **fields, "response": response})


# Embedding and classification


def _embedding(ask: Ask, at: int) -> str:
    """Return the vector of a text, in a field whose name is not documented [A]."""
    assert ask.embedding_model is not None  # noqa: S101  the path has been resolved before
    options = VectorOptions.of(ask.body, ask.embedding_model)
    return options.to_json(truncate_words(ask.text(at), EMBEDDED_WORDS), ask.settings.embedding_shape)


_STEPS = 4096  # the example's scores are multiples of 1/4096


def _labels(name: str, value: Any) -> list[str]:
    labels: list[str] = check(name, value, [text])
    if not labels or len(set(labels)) < len(labels):
        raise InvalidValue(f"{name}: at least one label, each once, is required.")
    return labels


def _classification(ask: Ask, at: int) -> str:
    """
    Score each label by a hash of model, label and text, best first; scores need not add up to 1.

    ``topK`` and ``similarityCutoff`` leave labels out, possibly all of them.
    """
    given, labels, cutoff = ask.text(at), ask.config["labels"], ask.config["similarityCutoff"]
    scores = {label: _score(ask.model_id, label, given) for label in labels}
    best = sorted(scores.items(), key=lambda pair: -pair[1])[: ask.config.get("topK")]
    ranked = {label: score for label, score in best if score >= cutoff}
    counts = {"inputTokens": count_tokens(given), "labelsTokens": sum(map(count_tokens, labels))}
    shown = ", ".join(f"{label}: {score:.2f}" for label, score in ranked.items())
    return _dump({"tokensUsed": counts, "labels": ranked, "response": shown})


def _score(*parts: str) -> float:
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") % _STEPS / _STEPS


# The pass-through use case, and its prompts. ``dataType`` wins over ``useSystemPrompt``. Of its values only
# ``json_prompt`` is explained by an example; for ``text`` one user message in the model's own format is assumed [A].
# The formats are those of the model families, the words of the generic system prompt are made up [A].

_SYSTEM_PROMPT = "You are a helpful assistant. Answer as briefly and as truthfully as you can."
_MESSAGES: Rule = [{"role": required(one_of("system", "user", "assistant")), "content": required(text)}]


def _messages(ask: Ask, at: int) -> list[dict[str, str]]:
    given, kind = ask.text(at), ask.config.get("dataType")
    if kind == "json_prompt":
        name = f"batch[{at}].text"
        try:
            turns = load_json(given.encode())
        except InvalidValue:
            turns = None
        if not turns:
            raise InvalidValue(f"{name}: json_prompt requires a JSON list of messages in the text.")
        messages: list[dict[str, str]] = check(name, turns, _MESSAGES)
        return messages
    own = {"role": "user", "content": given}
    if kind is None and ask.config["useSystemPrompt"]:
        return [{"role": "system", "content": _SYSTEM_PROMPT}, own]
    return [own]


def prompt_of(ask: Ask, at: int) -> str:
    messages = _messages(ask, at)
    if "dataType" not in ask.config and not ask.config["useSystemPrompt"]:
        return ask.text(at)
    if ask.model_id.startswith("llama"):
        turns = (
            f"<|start_header_id|>{one['role']}<|end_header_id|>\n\n{one['content']}<|eot_id|>"
            for one in messages
        )
        return f"<|begin_of_text|>{''.join(turns)}<|start_header_id|>assistant<|end_header_id|>\n\n"
    if ask.model_id.startswith("mistral"):
        joined = "\n\n".join(one["content"] for one in messages)
        return f"<s>[INST] {joined} [/INST]"
    return json.dumps(messages, ensure_ascii=False)


def _passthrough(ask: Ask) -> Answerer:
    """Echo the text, or the last message of a user."""
    prompts = [prompt_of(ask, at) for at in range(len(ask.items))]

    def answer(at: int) -> str:
        messages = _messages(ask, at)
        asked = [one for one in messages if one["role"] == "user"] or messages
        return _generated(prompts[at], ask.cut(asked[-1]["content"]))

    return answer


# Summaries, keywords, entities, questions

_EXAMPLE = 100  # maxWords and maxKeywords of the vendor's examples; their defaults are not seen [A]
_FAQ_QUESTIONS = 5
_ENTITY_TYPES = ("person", "location", "organization")  # without an entityTypeMap [A]
_NAME = re.compile(r"[^\W\d_][\w’'-]*")


def _summarization(ask: Ask, at: int) -> str:
    given = ask.text(at)
    return _generated(given, ask.cut(truncate_words(given.strip(), ask.config["maxWords"])))


def _keyword_extraction(ask: Ask, at: int) -> str:
    """Return the most frequent words; the list beside ``response`` is called ``keywords`` [A]."""
    given = ask.text(at)
    found = [word for word, _ in Counter(content_words(given)).most_common(ask.config["maxKeywords"])]
    response = ask.cut(", ".join(found))
    return _generated(given, response, keywords=[one for one in response.rstrip(",").split(", ") if one])


def _ner(ask: Ask, at: int) -> str:
    """Return capitalised words as entities, and the same as JSON in ``response``; JSON that is cut has none [A]."""
    types = ask.config["entityTypeMap"] or dict.fromkeys(_ENTITY_TYPES, ())
    examples = {kind: {one.casefold() for one in known} for kind, known in types.items()}
    entities: dict[str, list[str]] = {name: [] for name in examples}
    for entity in _names(ask.text(at)):
        entities[_type_of(entity, examples)].append(entity)
    whole = _dump(entities)
    response = ask.cut(whole)
    return _generated(ask.text(at), response, entities=entities if response == whole else {})


def _names(given: str) -> list[str]:
    """Return runs of capitalised words, each once, without common words at the beginning of a sentence."""
    runs: list[list[re.Match[str]]] = []
    for word in _NAME.finditer(given):
        if not word.group()[0].isupper():
            continue
        if runs and given[runs[-1][-1].end() : word.start()] == " ":
            runs[-1].append(word)
        elif word.group().lower() not in COMMON_WORDS:
            runs.append([word])
    return list(dict.fromkeys(given[run[0].start() : run[-1].end()] for run in runs))


def _type_of(entity: str, examples: Mapping[str, set[str]]) -> str:
    for kind, known in examples.items():
        if entity.casefold() in known:
            return kind
    kinds = list(examples)  # entities need not be in the catalog (section 5.6)
    return kinds[hashlib.blake2b(entity.encode(), digest_size=1).digest()[0] % len(kinds)]


def _faq_enrichment(ask: Ask, at: int) -> str:
    """Return a JSON list of questions and answers inside ``response``; the names of its fields are [A]."""
    given = ask.text(at)
    sentences = [given[start:end] for start, end in sentence_spans(given)[:_FAQ_QUESTIONS]]
    pairs = [{"question": _question(sentence), "answer": sentence} for sentence in sentences]
    return _generated(given, ask.cut(_dump(pairs)))


def _question(sentence: str) -> str:
    subject = " ".join(content_words(sentence)[:3])
    return f"What is said about {subject}?" if subject else "What is said?"


# Conversations

_NOT_FOUND = "The documents do not hold an answer."  # the vendor's own words are not seen [A]
_DOCUMENTS: Rule = [{"body": required(text), "source": required(text), "title": text, "date": text}]


def _rag(ask: Ask) -> Answerer:
    """
    Answer from the documents, and open or continue the conversations.

    A ``memoryUuid`` that the emulator does not know starts a conversation of that name, for one may have been
    forgotten [A]; without any, each item starts its own [A]. An item without documents has no answer [A].
    """
    texts = [item["text"] for item in ask.items]
    conversations = [ask.config.get("memoryUuid") or str(uuid4()) for _ in texts]
    histories = [list(ask.memory.get(name, ())) for name in conversations]
    for name, question in zip(conversations, texts, strict=True):
        ask.memory.remember(name, question)

    def answer(at: int) -> str:
        documents = ask.items[at]["documents"]
        best = _best(texts[at], documents)
        found = ask.config["answerNotFoundMessage"] if best is None else _sentence(texts[at], documents[best])
        sources = [] if best is None else [documents[best]["source"]]
        chosen = "" if best is None else f"- {best}\n"
        prompt = "\n".join([*histories[at], *(one["body"] for one in documents), texts[at]])
        return _generated(
            prompt,
            f"SOURCES:\n{chosen}ANSWER: {found}",
            answer=found,
            answerFound=best is not None,
            sources=", ".join(sources) if ask.settings.sources_shape == "string" else sources,
            memoryUuid=conversations[at],
        )

    return answer


def _best(question: str, documents: Sequence[Mapping[str, str]]) -> int | None:
    """Return the number of the document with the most shared words, the first of equals; None without any."""
    asked = set(content_words(question))
    shared = [len(asked & set(words(f"{one.get('title', '')}\n{one['body']}"))) for one in documents]
    return shared.index(max(shared)) if any(shared) else None


def _sentence(question: str, document: Mapping[str, str]) -> str:
    asked, body = set(content_words(question)), document["body"]
    sentences = [body[start:end] for start, end in sentence_spans(body)] or [body]
    return max(sentences, key=lambda one: len(asked & set(words(one))))


def _standalone_query_rewriter(ask: Ask) -> Answerer:
    """
    Put the words of the conversation's last question into the query.

    The query itself is not remembered, so a repeated request gets the same response [A].
    """
    memory_uuid = ask.config["memoryUuid"]
    if memory_uuid not in ask.memory:
        raise InvalidValue("useCaseConfig.memoryUuid: there is no such conversation.")
    history = list(ask.memory[memory_uuid])

    def answer(at: int) -> str:
        return _generated("\n".join([*history, ask.text(at)]), _rewritten(ask.text(at), history[-1]))

    return answer


def _rewritten(query: str, question: str) -> str:
    stripped = query.rstrip(" ?!.")
    known = {*words(query), *COMMON_WORDS}
    added = [word for word in dict.fromkeys(words(question)) if word not in known]
    return " ".join([stripped, *added]) + ("?" if query.rstrip().endswith("?") else "")


# The table


def _each(answer: Callable[[Ask, int], str]) -> Callable[[Ask], Answerer]:
    """Nothing is left to be refused, so each item is computed on its own."""
    return lambda ask: partial(answer, ask)


_TEXT_ITEM: Mapping[str, Rule | Default] = {"text": required(text)}
_GENERATIVE = (*HOSTED_GENERATIVE, *OPENAI)


@dataclass(frozen=True)
class UseCase:
    """
    One use case.

    :param config: the rules of its ``useCaseConfig``; those of embedding depend on the model.
    :param item: the rules of an element of ``batch``.
    :param custom: deployments of custom models serve it too.
    """

    prepare: Callable[[Ask], Answerer]
    models: tuple[str, ...] = _GENERATIVE
    config: Mapping[str, Rule | Default] = field(default_factory=dict)
    item: Mapping[str, Rule | Default] = field(default_factory=lambda: _TEXT_ITEM)
    asynchronous: bool = True
    custom: bool = False


# By the values of ``USE_CASE``. Embedding and classification have no asynchronous page (section 6.1).
USE_CASES: Mapping[str, UseCase] = {
    "embedding": UseCase(_each(_embedding), tuple(EMBEDDING_MODELS), asynchronous=False, custom=True),
    # Embedding models are documented for it; that generative ones serve it is an assumption [A].
    "classification": UseCase(
        _each(_classification),
        (*EMBEDDING_MODELS, *_GENERATIVE),
        {
            "labels": required(_labels),
            "topK": integer(1),
            "similarityCutoff": Default(number(-1, 1), -1.0),
        },
        asynchronous=False,
        custom=True,
    ),
    "passthrough": UseCase(
        _passthrough,
        # The default of useSystemPrompt is not documented [A].
        config={"useSystemPrompt": Default(boolean, False), "dataType": one_of("text", "json_prompt")},
    ),
    "rag": UseCase(
        _rag,
        config={
            "memoryUuid": uuid,
            "extractRelevantContent": boolean,
            "answerNotFoundMessage": Default(text, _NOT_FOUND),
        },
        item={**_TEXT_ITEM, "documents": Default(_DOCUMENTS, [])},
    ),
    "summarization": UseCase(_each(_summarization), config={"maxWords": Default(integer(1), _EXAMPLE)}),
    "keyword-extraction": UseCase(
        _each(_keyword_extraction), config={"maxKeywords": Default(integer(1), _EXAMPLE)}
    ),
    "ner": UseCase(
        _each(_ner), (*NER_ONLY, *_GENERATIVE), {"entityTypeMap": Default(table_of(text, [text]), {})}
    ),
    "faq-enrichment": UseCase(_each(_faq_enrichment)),
    "standalone-query-rewriter": UseCase(_standalone_query_rewriter, config={"memoryUuid": required(uuid)}),
}
