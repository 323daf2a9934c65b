# SPDX-License-Identifier: Apache-2.0
"""
What all buttons have in common: a task pushes the whole address, and that is what the button opens.

Airflow 3 shows what was pushed under ``xcom_key`` and never imports these modules in its API server; Airflow 2.11's
webserver asks :meth:`PushedLink.get_link`. There, templates are not rendered, so only the task knows the address.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context, TaskInstanceKey

log = logging.getLogger(__name__)


class PushedLink(BaseOperatorLink):
    """A button that opens what the task has pushed; there is none before, nor where no browser could open it."""

    xcom_key: str

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """
        The address that the task pushed, or nothing.

        :param operator: not needed: in a webserver of Airflow 2 its templates are not rendered.
        """
        from airflow.providers.common.compat.sdk import XCom

        pushed = XCom.get_value(key=self.xcom_key, ti_key=ti_key)
        # Whoever may write an XCom must not be able to make a button that runs a script.
        return pushed if split_web_address(pushed) is not None else ""

    @classmethod
    def push(cls, context: Context, address: str) -> None:
        """
        Let the button open an address.

        :param context: of the running task.
        :param address: empty where there is nothing to open; then nothing is pushed.
        """
        if not address:
            return
        try:
            context["ti"].xcom_push(key=cls.xcom_key, value=address)
        except Exception:
            # The result stands, and a task does not fail for a button.
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
