# SPDX-License-Identifier: Apache-2.0
"""
Base class of the extra links: the task pushes the whole URL.

Airflow 3 calls :meth:`PushedLink.get_link` in the task's process when it ends, stores the URL as an XCom, and does
not
import these modules in its API server. The webserver of Airflow 2.11 calls it in its own process, where templates are
not rendered; for that the task pushes the XCom itself.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink
from airflow.providers.common.compat.version_compat import AIRFLOW_V_3_0_PLUS

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

log = logging.getLogger(__name__)

# Attribute of an operator: URLs by the keys of their links.
_PUSHED = "_lucidworks_links"


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
            log.warning("%s could not be pushed.", cls.xcom_key, exc_info=True)


def split_web_address(url: Any) -> SplitResult | None:
    """Split a URL of http or https; None for any other."""
    if not isinstance(url, str):
        return None
    try:
        split = urlsplit(url.strip())
        return split if split.scheme in {"http", "https"} and split.hostname else None
    except ValueError:
        return None
