# SPDX-License-Identifier: Apache-2.0
"""
The link to the folder of a result in the console of Amazon S3 or Google Cloud Storage.

Other stores with the same protocol (MinIO, an emulator) have no page there. The page of an Azure container needs its
subscription, which is not known.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from lucidworks_provider.errors import StorageError
from lucidworks_provider.links.pushed import PushedLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

log = logging.getLogger(__name__)

_S3, _GCS = frozenset({"s3", "s3a", "s3n"}), frozenset({"gs", "gcs"})


class LucidworksResultLink(PushedLink):
    """Opens the folder of the result; there is no link where no console shows it."""

    name = "Result"
    xcom_key = "lucidworks_result"


def push_result(context: Context, uri: str | None, *, is_folder: bool = False) -> None:
    """
    Push the URL of the console's page of a result that has been written.

    :param context: of the running task.
    :param uri: of the file, or of the folder.
    """
    if uri is None or uri.partition("://")[0] not in _S3 | _GCS:
        return
    from lucidworks_provider.storage import naming, store_path

    try:
        with naming("looked up", uri):
            endpoint = endpoint_of(store_path(uri).fs)
    except StorageError as err:
        # Link errors are non-fatal.
        log.warning("There is no link to the result: %s", err)
        return
    LucidworksResultLink.push(context, console_address(uri, endpoint, is_folder=is_folder))


def console_address(uri: str, endpoint: str, *, is_folder: bool = False) -> str:
    """
    The console's page of a folder.

    :param uri: of a file in it, or of the folder.
    :param endpoint: URL of the store.
    :return: an empty string where there is none.
    """
    from lucidworks_provider.storage import plain_uri

    scheme, _, rest = plain_uri(uri).partition("://")
    bucket, _, path = rest.partition("/")
    folder = path.rstrip("/") if is_folder else path.rpartition("/")[0]
    host = urlsplit(endpoint).hostname or ""
    # China and GovCloud have other hosts and consoles.
    if scheme in _S3 and host.endswith(".amazonaws.com") and "us-gov" not in host:
        within = f"?prefix={quote(folder)}/" if folder else ""
        return f"https://console.aws.amazon.com/s3/buckets/{quote(bucket)}{within}"
    if scheme in _GCS and host == "storage.googleapis.com":
        return f"https://console.cloud.google.com/storage/browser/{quote(f'{bucket}/{folder}'.rstrip('/'))}"
    return ""


def endpoint_of(file_system: Any) -> str:
    """The endpoint of a file system of ``s3fs`` or ``gcsfs``; an empty string if it is not known."""
    meta = getattr(getattr(file_system, "s3", None), "meta", None)
    return str(getattr(meta, "endpoint_url", None) or getattr(file_system, "base", None) or "")
