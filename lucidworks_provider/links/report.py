# SPDX-License-Identifier: Apache-2.0
"""
The button that opens the report of a run over a corpus.

A browser cannot open the place where most datasets lie (a disk, a bucket), so where people find it is a parameter
of the operator. The task pushes the whole address when the report is written.
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

    There is no button while the report is not written, nor where no browser could open it.
    """

    name = "Report"
    xcom_key = XCOM_KEY


def push_report(context: Context, output: str, report_url: str | None) -> str:
    """
    Note where the report is; to be called once it is written.

    :param context: of the running task.
    :return: the address, or an empty string where no browser can open it; then nothing is pushed.
    :raises InputError: as :func:`report_address`.
    """
    address = report_address(output, report_url)
    LucidworksReportLink.push(context, address)
    return address


def report_address(output: str, report_url: str | None) -> str:
    """
    Where a browser finds the report.

    :param output: the folder that it is written to, as a URI.
    :param report_url: where people see that folder in a browser, e.g. ``https://reports.example.com/catalogue``.
    :return: an empty string where neither of the two is an address for browsers.
    :raises InputError: ``report_url`` is none.
    """
    if report_url is None or (isinstance(report_url, str) and not report_url.strip()):
        split = split_web_address(output)
        # What stands before the host is a connection's id or a password, and not for a page that many see.
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
