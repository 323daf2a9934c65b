# SPDX-License-Identifier: Apache-2.0
"""The button to the folder of a result; that to the report has a file of its own."""

import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lucidworks_provider import storage
from lucidworks_provider.links import (
    LucidworksResultLink,
    console_address,
    push_result,
    report_address,
    storage_endpoint,
)

AWS, GOOGLE = "https://s3.eu-west-1.amazonaws.com", "https://storage.googleapis.com/storage/v1/"
S3, GCS = "https://console.aws.amazon.com/s3/buckets", "https://console.cloud.google.com/storage/browser"


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


def test_the_addresses_on_the_page() -> None:
    page = (Path(__file__).parents[3] / "docs/links.md").read_text()
    [output], [report_url] = (
        re.findall(rf'^ +{name}="([^"]+)"', page, re.M) for name in ("output_uri", "report_url")
    )
    opened_there = [console_address(output, AWS, is_folder=True), report_address(output, report_url)]
    assert re.findall(r"<(https://[^>]+)>", page) == opened_there


def context() -> tuple[Any, dict[str, Any]]:
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(task=SimpleNamespace(), xcom_push=lambda key, value: pushed.update({key: value}))
    return {"ti": ti}, pushed


def opened(given: Any, pushed: dict[str, Any]) -> str:
    """The address that the button opens."""
    link = LucidworksResultLink()
    return pushed.get(link.xcom_key) or link.get_link(given["ti"].task, ti_key=SimpleNamespace())  # type: ignore[arg-type]


def test_the_file_system_says_where_the_store_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def store_path(uri: str) -> Any:
        asked.append(uri)
        return SimpleNamespace(fs=SimpleNamespace(s3=SimpleNamespace(meta=SimpleNamespace(endpoint_url=AWS))))

    monkeypatch.setattr(storage, "store_path", store_path)
    given, pushed = context()
    push_result(given, "s3://bucket/a/chunks.parquet")
    assert opened(given, pushed) == f"{S3}/bucket?prefix=a/"
    # What no console has is not even looked up.
    push_result(given, "file:///data/a")
    push_result(given, None)
    assert asked == ["s3://bucket/a/chunks.parquet"]
    assert storage_endpoint(SimpleNamespace(base=GOOGLE)) == GOOGLE
    assert storage_endpoint(object()) == ""


def test_no_task_fails_for_a_button(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def store_path(uri: str) -> Any:
        raise ImportError("no s3fs")

    monkeypatch.setattr(storage, "store_path", store_path)
    given, pushed = context()
    with caplog.at_level(logging.WARNING):
        push_result(given, "s3://bucket/a/chunks.parquet")
    assert pushed == given["ti"].task.__dict__ == {}
    assert "There is no link to the result" in caplog.text
