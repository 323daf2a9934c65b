# SPDX-License-Identifier: Apache-2.0
"""
The use cases that work on one text: pass-through, summary, keywords, entities, questions (sections 5.4, 5.6).

No language model is behind them. Each answer follows from the text by counting words, has the documented
fields, and is cut after ``maxTokens`` where a text is generated. Fields that no page shows are marked [A].
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, non_empty, strings
from lucidworks_provider.emulator.predictions.ask import Answerer, Ask, Item, dump, generated
from lucidworks_provider.emulator.predictions.prompts import Prompter
from lucidworks_provider.emulator.sentences import (
    COMMON_WORDS,
    content_words,
    sentence_spans,
    truncate_words,
)

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
