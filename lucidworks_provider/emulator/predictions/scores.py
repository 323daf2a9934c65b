# SPDX-License-Identifier: Apache-2.0
"""The use cases that answer with numbers: embedding and classification (sections 5.2 and 5.3)."""

from __future__ import annotations

import hashlib

from lucidworks_provider.emulator.checks import InvalidRequest, strings
from lucidworks_provider.emulator.predictions.ask import Answerer, Ask, Item, dump
from lucidworks_provider.emulator.sentences import count_tokens, truncate_words
from lucidworks_provider.emulator.vector_options import VectorOptions

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
