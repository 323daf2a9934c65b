# SPDX-License-Identifier: Apache-2.0
"""The nine use cases: their path segments, their models, and what answers them (sections 5.1, 6.1, 12)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from lucidworks_provider.emulator.models import EMBEDDING_MODELS, HOSTED_GENERATIVE, NER_ONLY, OPENAI
from lucidworks_provider.emulator.predictions import rag, scores, texts
from lucidworks_provider.emulator.predictions.ask import Answerer, Ask


class UseCaseName(Enum):
    """The values of ``USE_CASE``; ``classification`` is seen nowhere as a segment [A]."""

    EMBEDDING = "embedding"
    CLASSIFICATION = "classification"
    PASSTHROUGH = "passthrough"
    RAG = "rag"
    SUMMARIZATION = "summarization"
    KEYWORD_EXTRACTION = "keyword-extraction"
    NER = "ner"
    FAQ_ENRICHMENT = "faq-enrichment"
    STANDALONE_QUERY_REWRITER = "standalone-query-rewriter"


@dataclass(frozen=True)
class UseCase:
    """One use case; deployments of custom models join the models of embedding."""

    prepare: Callable[[Ask], Answerer]
    models: tuple[str, ...]
    item_fields: tuple[str, ...] = ("text",)
    asynchronous: bool = True


_GENERATIVE = (*HOSTED_GENERATIVE, *OPENAI)

USE_CASES: Mapping[UseCaseName, UseCase] = {
    UseCaseName.EMBEDDING: UseCase(scores.embedding, tuple(EMBEDDING_MODELS), asynchronous=False),
    # No page names a model for it; its token counts look like an encoder's, so all may serve it [A].
    UseCaseName.CLASSIFICATION: UseCase(
        scores.classification, (*EMBEDDING_MODELS, *_GENERATIVE), asynchronous=False
    ),
    UseCaseName.PASSTHROUGH: UseCase(texts.passthrough, _GENERATIVE),
    UseCaseName.RAG: UseCase(rag.rag, _GENERATIVE, item_fields=("text", "documents")),
    UseCaseName.SUMMARIZATION: UseCase(texts.summarization, _GENERATIVE),
    UseCaseName.KEYWORD_EXTRACTION: UseCase(texts.keyword_extraction, _GENERATIVE),
    UseCaseName.NER: UseCase(texts.ner, (*NER_ONLY, *_GENERATIVE)),
    UseCaseName.FAQ_ENRICHMENT: UseCase(texts.faq_enrichment, _GENERATIVE),
    UseCaseName.STANDALONE_QUERY_REWRITER: UseCase(rag.standalone_query_rewriter, _GENERATIVE),
}
