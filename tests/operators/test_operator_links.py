# SPDX-License-Identifier: Apache-2.0
"""The buttons to the vendor's pages and to the folder of a result; that to the report has a file of its own."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider import storage
from lucidworks_provider.links.documentation import LucidworksDocumentationLink, page_of
from lucidworks_provider.links.result import LucidworksResultLink, console_address, endpoint_of, push_result
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import LucidworksChunkDocumentsOperator
from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor, LucidworksModelSensor

AWS, GOOGLE = "https://s3.eu-west-1.amazonaws.com", "https://storage.googleapis.com/storage/v1/"
S3, GCS = "https://console.aws.amazon.com/s3/buckets", "https://console.cloud.google.com/storage/browser"
APIS = "https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis"
REFERENCE = "https://doc.lucidworks.com/api-reference"


@pytest.mark.parametrize(
    ("uri", "endpoint", "address"),
    [
        ("s3://bucket/a b/chunks.parquet", AWS, f"{S3}/bucket?prefix=a%20b/"),
        ("s3://my_conn@bucket/a/b.jsonl", "https://bucket.s3.amazonaws.com", f"{S3}/bucket?prefix=a/"),
        ("s3a://bucket/chunks.parquet", AWS, f"{S3}/bucket"),
        ("gs://bucket/a/b/chunks.parquet", GOOGLE, f"{GCS}/bucket/a/b"),
        ("gcs://my_conn@bucket/chunks.parquet", GOOGLE, f"{GCS}/bucket"),
        # Stores of others that speak the same language, and consoles at other addresses.
        ("s3://bucket/a/b", "http://minio.example.com:9000", ""),
        ("s3://bucket/a/b", "https://s3.amazonaws.com.evil.example", ""),
        ("s3://bucket/a/b", "https://s3.cn-north-1.amazonaws.com.cn", ""),
        ("s3://bucket/a/b", "https://s3.us-gov-west-1.amazonaws.com", ""),
        ("s3://bucket/a/b", "", ""),
        ("gs://bucket/a/b", "http://localhost:4443/storage/v1/", ""),
        ("abfs://container/a/b", "https://account.blob.core.windows.net", ""),
        ("file:///data/a/b", "", ""),
        ("/data/a/b", "", ""),
    ],
)
def test_the_folder_in_a_console(uri: str, endpoint: str, address: str) -> None:
    assert console_address(uri, endpoint) == address


def test_a_dataset_is_a_folder() -> None:
    assert console_address("s3://bucket/chunks/", AWS, is_folder=True) == f"{S3}/bucket?prefix=chunks/"
    assert console_address("gs://bucket/chunks", GOOGLE, is_folder=True) == f"{GCS}/bucket/chunks"


def context() -> tuple[Any, dict[str, Any]]:
    pushed: dict[str, Any] = {}
    return {"ti": SimpleNamespace(xcom_push=lambda key, value: pushed.update({key: value}))}, pushed


def test_the_file_system_says_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def store_path(uri: str) -> Any:
        asked.append(uri)
        return SimpleNamespace(fs=SimpleNamespace(s3=SimpleNamespace(meta=SimpleNamespace(endpoint_url=AWS))))

    monkeypatch.setattr(storage, "store_path", store_path)
    given, pushed = context()
    push_result(given, "s3://bucket/a/chunks.parquet")
    assert pushed == {LucidworksResultLink.xcom_key: f"{S3}/bucket?prefix=a/"}
    # What no console has is not even looked up.
    push_result(given, "file:///data/a")
    push_result(given, None)
    assert (len(pushed), asked) == (1, ["s3://bucket/a/chunks.parquet"])
    assert endpoint_of(SimpleNamespace(base=GOOGLE)) == GOOGLE
    assert endpoint_of(object()) == ""


def test_no_task_fails_for_a_button(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def store_path(uri: str) -> Any:
        raise ImportError("no s3fs")

    monkeypatch.setattr(storage, "store_path", store_path)
    given, pushed = context()
    with caplog.at_level(logging.WARNING):
        push_result(given, "s3://bucket/a/chunks.parquet")
    assert pushed == {}
    assert "There is no link to the result" in caplog.text


CHUNKING: dict[str, Any] = {"task_id": "t", "model_id": "gte-small", "result_path": "/a.jsonl"}
CORPUS: dict[str, Any] = {"task_id": "t", "model_id": "gte-small", "source": "/a", "output": "/b"}
ASKED: dict[str, Any] = {"task_id": "t", "model_id": "m", "inputs": ["a"], "result_path": "/a.jsonl"}
DIRECT, BY_JOBS = LucidworksPredictionOperator, LucidworksAsyncPredictionOperator


class Theirs(LucidworksChunkOperator):
    """A user's own."""


@pytest.mark.parametrize(
    ("operator", "page"),
    [
        (
            LucidworksChunkOperator(chunker="semantic", **CHUNKING),
            f"{REFERENCE}/split-content-into-chunks/chunk-using-semantic-chunker",
        ),
        (Theirs(chunker="regex-splitter", **CHUNKING), f"{REFERENCE}/regex-splitter-by-modelid"),
        (
            LucidworksChunkDocumentsOperator(chunker="of a later release", **CORPUS),
            f"{APIS}/lw-ai-async-chunking-api",
        ),
        (DIRECT(use_case="RAG", **ASKED), f"{APIS}/lw-ai-prediction-api/rag-prediction"),
        (
            DIRECT(use_case="standalone_query_rewriter", **ASKED),
            f"{APIS}/lw-ai-prediction-api/standalone-query-rewriter-prediction",
        ),
        (DIRECT(use_case="classification", **ASKED), f"{APIS}/lw-ai-prediction-api/overview"),
        (BY_JOBS(use_case="rag", **ASKED), f"{REFERENCE}/rag-use-case"),
        (BY_JOBS(use_case="ner", **ASKED), f"{APIS}/lw-ai-async-prediction-api/ner-async"),
        (BY_JOBS(use_case="another", **ASKED), f"{REFERENCE}/model-predictions-by-use-case"),
        (LucidworksDeployModelOperator(task_id="t", model_id="m"), f"{APIS}/lw-ai-models-api"),
        (LucidworksUndeployModelOperator(task_id="t", deployment_id="d"), f"{REFERENCE}/delete-deployments"),
        (
            LucidworksJobSensor(task_id="t", job_id="j"),
            f"{REFERENCE}/request-chunked-content/get-results-by-chunkingid",
        ),
        (LucidworksModelSensor(task_id="t", model_id="m"), f"{REFERENCE}/get-modelid"),
        (LucidworksDeploymentSensor(task_id="t", deployment_id="d"), f"{REFERENCE}/get-deployments"),
    ],
)
def test_the_vendors_page(operator: Any, page: str) -> None:
    assert page_of(operator) == page
    assert LucidworksDocumentationLink in {type(link) for link in operator.operator_extra_links}
    given, pushed = context()
    operator.pre_execute(given)
    assert pushed == {LucidworksDocumentationLink.xcom_key: page}


def test_others_have_no_page() -> None:
    assert page_of(BaseOperator(task_id="t")) == ""


def test_a_button_that_cannot_be_pushed_fails_no_task(caplog: pytest.LogCaptureFixture) -> None:
    def push(key: str, value: str) -> None:
        raise ConnectionError("no API server")

    LucidworksResultLink.push({"ti": SimpleNamespace(xcom_push=push)}, "https://console.example")  # type: ignore[typeddict-item]
    assert "lucidworks_result could not be pushed" in caplog.text
