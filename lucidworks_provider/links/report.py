# SPDX-License-Identifier: Apache-2.0
"""
The link to the report of a run over a corpus.

A browser cannot open most storages (a disk, a bucket), so ``report_url`` is a parameter of the operator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import SplitResult

from lucidworks_provider.errors import InputError
from lucidworks_provider.links.pushed import PushedLink, split_web_address

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

REPORT = "report.html"
XCOM_KEY = "lucidworks_report"


class LucidworksReportLink(PushedLink):
    """
    Opens the report in a browser; attached by ``operator_extra_links = (LucidworksReportLink(),)``.

    There is no link before the report is written, nor where a browser cannot open it.
    """

    name = "Report"
    xcom_key = XCOM_KEY


def push_report(context: Context, output: str, report_url: str | None) -> str:
    """
    Push the URL of a report that has been written.

    :param context: of the running task.
    :return: the URL, or an empty string where a browser cannot open it; then nothing is pushed.
    :raises InputError: as :func:`report_address`.
    """
    address = report_address(output, report_url)
    LucidworksReportLink.push(context, address)
    return address


def report_address(output: str, report_url: str | None) -> str:
    """
    The URL of the report.

    :param output: the folder that it is written to, as a URI.
    :param report_url: of that folder in a browser, e.g. ``https://reports.example.com/catalogue``.
    :return: an empty string where neither is a URL of http or https.
    :raises InputError: ``report_url`` is not.
    """
    if report_url is None or (isinstance(report_url, str) and not report_url.strip()):
        split = split_web_address(output)
        # Without the user part: a connection id or a password.
        return "" if split is None else _below(split._replace(netloc=split.netloc.rpartition("@")[2]))
    split = split_web_address(report_url)
    if split is None:
        raise InputError(
            f"report_url is {report_url!r}; give the http(s) address under which a browser sees the folder of "
            "`output_uri`, or leave it out."
        )
    return _below(split)


def _below(folder: SplitResult) -> str:
    return folder._replace(path=f"{folder.path.rstrip('/')}/{REPORT}", fragment="").geturl()
