# SPDX-License-Identifier: Apache-2.0
"""Waiting for a state of a model or a deployment, in operators and sensors."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from lucidworks_provider.errors import JobFailedError, JobTimeoutError, LucidworksError
from lucidworks_provider.operators.waiting import DEFER_SLACK, WaitMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class StateWaitMixin(WaitMixin):
    """Waits until a model or a deployment is in a state, or cannot get there."""

    def _what(self, kind: str, resource_id: str) -> str:
        """The name of the resource in messages."""
        return f"{kind.capitalize()} {resource_id}"

    def _wait(
        self, context: Context, kind: str, resource_id: str, target: str, model_id: str | None = None
    ) -> None:
        """
        Wait in the triggerer or in this process.

        :param kind: ``model`` or ``deployment``.
        :param target: see :mod:`lucidworks_provider.jobs.decisions`.
        :param model_id: of a deployment whose model is known.
        """
        deadline = self._deadline(context)
        if self._in_triggerer:
            from lucidworks_provider.triggers.models import LucidworksStateTrigger

            self.defer(
                trigger=LucidworksStateTrigger(
                    lucidworks_conn_id=self.lucidworks_conn_id,
                    kind=kind,
                    resource_id=resource_id,
                    target=target,
                    poll_interval=self._poll_seconds,
                    deadline=deadline,
                    model_id=model_id,
                ),
                method_name="execute_complete",
                timeout=timedelta(seconds=max(0.0, deadline - time.time())) + DEFER_SLACK,
            )
        from lucidworks_provider.jobs.polling import wait_for_state

        event = asyncio.run(
            wait_for_state(
                self.hook,
                kind=kind,
                resource_id=resource_id,
                target=target,
                poll_interval=self._poll_seconds,
                deadline=deadline,
                model_id=model_id,
            )
        )
        self._end(context, event)

    def _end(self, context: Context, event: dict[str, Any]) -> None:
        """Raise unless the state was reached."""
        what, target = self._what(event["kind"], event["resource_id"]), event["target"]
        state, message = event.get("state"), event.get("message") or ""
        if event["end"] != "reached":
            _raise(event, f"{what} is {state or 'missing'}", target, message, self._waited(context))
        self.log.info("%s: %s", what, state or "deleted")


def _raise(event: dict[str, Any], status: str, target: str, message: str, limit: str) -> NoReturn:
    match event["end"]:
        case "failed":
            raise JobFailedError(f"{status}, and will not get to {target!r}. {message}".strip())
        case "timeout":
            raise JobTimeoutError(
                f"{status}, and was not {target!r} within {limit}. {message} A retry resumes the wait."
            )
    failed = LucidworksError(f"{status}; waiting for {target!r} failed: {message}")
    failed.retryable = bool(event.get("retryable"))
    raise failed
