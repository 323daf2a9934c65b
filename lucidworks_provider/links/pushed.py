# SPDX-License-Identifier: Apache-2.0
"""
What all buttons have in common: a task notes the whole address, and that is what the button opens.

Airflow 3 asks :meth:`PushedLink.get_link` in the process of the task when it ends, stores the answer as an XCom, and
never imports these modules in its API server. The webserver of Airflow 2.11 asks it in its own process, for which
the task pushes the XCom itself. There, templates are not rendered, so only the task knows the address.
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

# Attribute of an operator: addresses by the keys of their links.
_NOTED = "_lucidworks_links"


class PushedLink(BaseOperatorLink):
    """A button that opens what the task has pushed; there is none before, nor where no browser could open it."""

    xcom_key: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        The address that the task noted, or an empty string.

        :param operator: that has run in this process, in Airflow 3.
        """
        if AIRFLOW_V_3_0_PLUS:
            # Not by XCom: one that does not exist is an error in the log of the task's supervisor.
            return str(getattr(operator, _NOTED, {}).get(self.xcom_key, ""))
        from airflow.providers.common.compat.sdk import XCom

        pushed = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        # Users that may write an XCom must not be able to make a button that runs a script.
        return pushed if split_web_address(pushed) is not None else ""

    @classmethod
    def push(cls, context: Context, address: str) -> None:
        """
        Let the button open an address.

        :param context: of the running task.
        :param address: empty where there is nothing to open; then nothing is noted.
        """
        if not address:
            return
        if AIRFLOW_V_3_0_PLUS:
            # Airflow asks the link of this operator.
            task: Any = context["ti"].task
            setattr(task, _NOTED, {**getattr(task, _NOTED, {}), cls.xcom_key: address})
            return
        try:
            context["ti"].xcom_push(key=cls.xcom_key, value=address)
        except Exception:
            # Link errors are non-fatal.
            log.warning("%s could not be pushed.", cls.xcom_key, exc_info=True)


def split_web_address(url: Any) -> SplitResult | None:
    """The parts of an address that browsers open, and no script or file."""
    if not isinstance(url, str):
        return None
    try:
        split = urlsplit(url.strip())
        return split if split.scheme in {"http", "https"} and split.hostname else None
    except ValueError:
        return None
