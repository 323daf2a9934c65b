# SPDX-License-Identifier: Apache-2.0
"""The button that opens the vendor's page about the endpoint that a task asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lucidworks_provider.links.pushed import PushedLink

_SITE = "https://doc.lucidworks.com"
_APIS = f"{_SITE}/docs/lw-platform/lw-ai/lw-ai-apis"
_REFERENCE = f"{_SITE}/api-reference"

_CHUNKERS = {
    "dynamic-newline": f"{_REFERENCE}/dynamic-newline-chunker-by-modelid",
    "dynamic-sentence": f"{_REFERENCE}/split-content-into-chunks/chunk-using-dynamic-sentence",
    "regex-splitter": f"{_REFERENCE}/regex-splitter-by-modelid",
    "semantic": f"{_REFERENCE}/split-content-into-chunks/chunk-using-semantic-chunker",
    "sentence": f"{_REFERENCE}/split-content-into-chunks/split-text-on-sentences",
}
_CHUNKING = ("chunker", _CHUNKERS, f"{_APIS}/lw-ai-async-chunking-api")
# By class: the argument that decides, what it decides, and the page of every other value.
_PAGES: Mapping[str, tuple[str, Mapping[str, str], str]] = {
    "LucidworksChunkOperator": _CHUNKING,
    "LucidworksChunkDocumentsOperator": _CHUNKING,
    "LucidworksPredictionOperator": (
        "use_case",
        {
            name: f"{_APIS}/lw-ai-prediction-api/{name}-prediction"
            for name in ("embedding", "passthrough", "rag", "ner", "standalone-query-rewriter")
        },
        f"{_APIS}/lw-ai-prediction-api/overview",
    ),
    "LucidworksAsyncPredictionOperator": (
        "use_case",
        {
            **{
                name: f"{_REFERENCE}/{name}-use-case"
                for name in ("passthrough", "rag", "summarization", "keyword-extraction")
            },
            **{
                name: f"{_APIS}/lw-ai-async-prediction-api/{name}-async" for name in ("ner", "faq-enrichment")
            },
            "standalone-query-rewriter": f"{_REFERENCE}/standalone-query-rewriter",
        },
        f"{_REFERENCE}/model-predictions-by-use-case",
    ),
    "LucidworksJobSensor": (
        "kind",
        {"chunking": f"{_REFERENCE}/request-chunked-content/get-results-by-chunkingid"},
        f"{_REFERENCE}/get-results-by-predictionid",
    ),
    "LucidworksTrainModelOperator": ("model_type", {}, f"{_REFERENCE}/post-models"),
    "LucidworksDeployModelOperator": ("model_id", {}, f"{_APIS}/lw-ai-models-api"),
    "LucidworksUndeployModelOperator": ("deployment_id", {}, f"{_REFERENCE}/delete-deployments"),
    "LucidworksModelSensor": ("model_id", {}, f"{_REFERENCE}/get-modelid"),
    "LucidworksDeploymentSensor": ("deployment_id", {}, f"{_REFERENCE}/get-deployments"),
}


class LucidworksDocumentationLink(PushedLink):
    """Opens the vendor's page about the endpoint; the task pushes it when it begins."""

    name = "Lucidworks AI documentation"
    xcom_key = "lucidworks_documentation"


def page_of(operator: Any) -> str:
    """
    The page about what an operator asks.

    :param operator: with rendered templates; of one of our classes, or of a class that is made from one.
    :return: an empty string for any other.
    """
    for one in type(operator).__mro__:
        if one.__name__ in _PAGES:
            decides, pages, otherwise = _PAGES[one.__name__]
            return pages.get(str(getattr(operator, decides, "")).strip().lower().replace("_", "-"), otherwise)
    return ""
