# SPDX-License-Identifier: Apache-2.0
"""
Extra links of a task in Airflow's UI: the task pushes the whole URL.

Airflow 3 calls :meth:`PushedLink.get_link` in the task's process when it ends, stores the URL as an XCom, and does
not import this module in its API server. The webserver of Airflow 2.11 calls it in its own process, where templates
are not rendered; for that the task pushes the XCom itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, quote, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

from lucidworks_provider.errors import InputError, StorageError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

log = logging.getLogger(__name__)

# Attribute of an operator: URLs by the keys of their links.
_PUSHED = "_lucidworks_links"
REPORT = "report.html"
_S3, _GCS = frozenset({"s3", "s3a", "s3n"}), frozenset({"gs", "gcs"})


class PushedLink(BaseOperatorLink):
    """A link to the URL that the task has pushed."""

    xcom_key: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        The URL that the task has pushed, or an empty string.

        :param operator: that has run in this process, in Airflow 3.
        """
        if AIRFLOW_V_3_0_PLUS:
            # Not by XCom: one that does not exist is an error in the log of the task's supervisor.
            return str(getattr(operator, _PUSHED, {}).get(self.xcom_key, ""))
        from airflow.providers.common.compat.sdk import XCom

        pushed = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        # A user with write access to XComs must not be able to create a link that runs a script.
        return pushed if split_web_address(pushed) is not None else ""

    @classmethod
    def push(cls, context: Context, address: str) -> None:
        """
        :param context: of the running task.
        :param address: the URL; nothing is pushed if it is empty.
        """
        if not address:
            return
        if AIRFLOW_V_3_0_PLUS:
            # Airflow calls get_link() of this operator.
            task: Any = context["ti"].task
            setattr(task, _PUSHED, {**getattr(task, _PUSHED, {}), cls.xcom_key: address})
            return
        try:
            context["ti"].xcom_push(key=cls.xcom_key, value=address)
        except Exception:
            # Link errors are non-fatal.
            log.warning("The link %s could not be stored in XCom.", cls.xcom_key, exc_info=True)


def split_web_address(url: Any) -> SplitResult | None:
    """Split a URL of http or https; None for any other."""
    if not isinstance(url, str):
        return None
    try:
        split = urlsplit(url.strip())
        return split if split.scheme in {"http", "https"} and split.hostname else None
    except ValueError:
        return None


class LucidworksReportLink(PushedLink):
    """
    Opens the report of a run over a corpus; attached by ``operator_extra_links = (LucidworksReportLink(),)``.

    There is no link before the report is written, nor where a browser cannot open it: most storages (a disk, a
    bucket) are not web addresses, so ``report_url`` is a parameter of the operator.
    """

    name = "Report"
    xcom_key = "lucidworks_report"


def push_report(context: Context, output: str, report_url: str | None, report: str = REPORT) -> None:
    """
    Push the URL of a report that has been written; nothing where a browser cannot open it.

    :param context: of the running task.
    :param report: as for :func:`report_address`.
    :raises InputError: as :func:`report_address`.
    """
    LucidworksReportLink.push(context, report_address(output, report_url, report))


def report_address(output: str, report_url: str | None, report: str = REPORT) -> str:
    """
    The URL of the report.

    :param output: the folder of the tables, as a URI.
    :param report_url: of that folder in a browser, e.g. ``https://reports.example.com/catalogue``.
    :param report: path of the report below the folder.
    :return: an empty string where neither is a URL of http or https.
    :raises InputError: ``report_url`` is not.
    """
    if report_url is None or (isinstance(report_url, str) and not report_url.strip()):
        split = split_web_address(output)
        # Without the user part: a connection id or a password.
        return "" if split is None else _below(split._replace(netloc=split.netloc.rpartition("@")[2]), report)
    split = split_web_address(report_url)
    if split is None:
        raise InputError(
            f"report_url is {report_url!r}; give the http(s) address under which a browser sees the folder of "
            "`output_uri`, or leave it out."
        )
    return _below(split, report)


def _below(folder: SplitResult, report: str) -> str:
    return folder._replace(path=f"{folder.path.rstrip('/')}/{report}", fragment="").geturl()


class LucidworksResultLink(PushedLink):
    """
    Opens the folder of the result in the console of Amazon S3 or Google Cloud Storage.

    Other stores with the same protocol (MinIO, an emulator) have no page there. The page of an Azure container needs
    its subscription, which is not known.
    """

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
            endpoint = storage_endpoint(store_path(uri).fs)
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


def storage_endpoint(file_system: Any) -> str:
    """The endpoint of a file system of ``s3fs`` or ``gcsfs``; an empty string if it is not known."""
    meta = getattr(getattr(file_system, "s3", None), "meta", None)
    return str(getattr(meta, "endpoint_url", None) or getattr(file_system, "base", None) or "")
