# SPDX-License-Identifier: Apache-2.0
"""
Options with types: one function per use case, for :func:`~lucidworks_provider.client.predictions.predict`.

::

    answers = hook.call(predict(build.rag("llama-3-8b-instruct"), [{"text": …, "documents": […]}]))
    answers[0].memory_uuid

``model_config`` of the generative ones has the vendor's names: ``temperature`` (0 to 2, default 0.7),
``topP`` (0 to 1, default 1), ``topK`` (default -1, all), ``presencePenalty``, ``frequencyPenalty``,
``maxTokens`` (default 256), and for models of third parties ``apiKey``, ``azureDeployment``,
``azureEndpoint``, ``googleProjectId``, ``googleRegion``. What is left out is the service's default.

Source: sections 3 and 5 of the API reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lucidworks_provider.client.api.predictions import (
    Classification,
    Embedding,
    Entities,
    Faq,
    Keywords,
    Prediction,
    RagAnswer,
)
from lucidworks_provider.client.api.use_cases import PredictionOptions

ModelConfig = Mapping[str, Any] | None


def embedding(
    model_id: str,
    *,
    data_type: str | None = None,
    quantization: str | None = None,
    dimensions: int | None = None,
) -> PredictionOptions[Embedding]:
    """
    Vectors of short texts; the service cuts a text after some 256 words.

    :param model_id: an embedding model, or the deployment id of a custom one.
    :param data_type: ``passage`` for what is searched, ``query`` for what one searches with.
    :param quantization: ``max-scale`` (signed bytes) or ``min-max`` (unsigned bytes); floats when None.
    :param dimensions: length of the vectors, at most the model's.
    """
    return PredictionOptions(
        "embedding",
        model_id,
        _given(dataType=data_type),
        _given(vectorQuantizationMethod=quantization, dimReductionSize=dimensions),
    )


def classification(
    model_id: str,
    *,
    labels: Sequence[str],
    top_k: int | None = None,
    similarity_cutoff: float | None = None,
) -> PredictionOptions[Classification]:
    """
    Scores of labels.

    :param labels: what a text may be.
    :param top_k: number of labels to return, those with the highest scores.
    :param similarity_cutoff: leave out labels with a lower score, possibly all of them.
    """
    config = {"labels": _listed(labels), "topK": top_k, "similarityCutoff": similarity_cutoff}
    return PredictionOptions("classification", model_id, config)


def passthrough(
    model_id: str,
    *,
    use_system_prompt: bool | None = None,
    data_type: str | None = None,
    model_config: ModelConfig = None,
) -> PredictionOptions[Prediction]:
    """
    The model's answer to a text as it is.

    :param use_system_prompt: wrap the text into the model's own prompt with a generic system prompt.
    :param data_type: ``text``, or ``json_prompt`` for a JSON list of ``{"role", "content"}``; goes before
        ``use_system_prompt``.
    """
    config = _given(useSystemPrompt=use_system_prompt, dataType=data_type)
    return PredictionOptions("passthrough", model_id, config, model_config)


def rag(
    model_id: str,
    *,
    memory_uuid: str | None = None,
    extract_relevant_content: bool | None = None,
    answer_not_found_message: str | None = None,
    model_config: ModelConfig = None,
) -> PredictionOptions[RagAnswer]:
    """
    Answers from documents.

    :param memory_uuid: of an earlier answer, to go on with its conversation.
    :param extract_relevant_content: the vendor's ``extractRelevantContent``.
    :param answer_not_found_message: what to answer when the documents do not tell.
    """
    config = _given(
        memoryUuid=memory_uuid,
        extractRelevantContent=extract_relevant_content,
        answerNotFoundMessage=answer_not_found_message,
    )
    return PredictionOptions("rag", model_id, config, model_config)


def summarization(
    model_id: str, *, max_words: int | None = None, model_config: ModelConfig = None
) -> PredictionOptions[Prediction]:
    """Summaries, of at most ``max_words`` words."""
    return PredictionOptions("summarization", model_id, _given(maxWords=max_words), model_config)


def keyword_extraction(
    model_id: str, *, max_keywords: int | None = None, model_config: ModelConfig = None
) -> PredictionOptions[Keywords]:
    """Keywords, ``max_keywords`` at most."""
    return PredictionOptions("keyword-extraction", model_id, _given(maxKeywords=max_keywords), model_config)


def ner(
    model_id: str,
    *,
    entity_type_map: Mapping[str, Sequence[str]] | None = None,
    model_config: ModelConfig = None,
) -> PredictionOptions[Entities]:
    """
    Named entities.

    :param entity_type_map: the types to look for, each with examples.
    """
    kinds = entity_type_map
    if isinstance(kinds, Mapping):
        kinds = {kind: _listed(names) for kind, names in kinds.items()}
    return PredictionOptions("ner", model_id, _given(entityTypeMap=kinds), model_config)


def faq_enrichment(model_id: str, *, model_config: ModelConfig = None) -> PredictionOptions[Faq]:
    """Questions that a text answers, with the answers."""
    return PredictionOptions("faq-enrichment", model_id, None, model_config)


def standalone_query_rewriter(
    model_id: str, *, memory_uuid: str, model_config: ModelConfig = None
) -> PredictionOptions[Prediction]:
    """
    A query of a conversation, rewritten so that it stands alone.

    :param memory_uuid: of an earlier ``rag`` answer or rewriting.
    """
    config = {"memoryUuid": memory_uuid}
    return PredictionOptions("standalone-query-rewriter", model_id, config, model_config)


def _listed(names: Any) -> Any:
    """JSON knows lists only; a text is left for the options to refuse, not taken apart into characters."""
    return list(names) if isinstance(names, Sequence) and not isinstance(names, str) else names


def _given(**options: Any) -> dict[str, Any] | None:
    return {name: value for name, value in options.items() if value is not None} or None
