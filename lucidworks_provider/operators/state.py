# SPDX-License-Identifier: Apache-2.0
"""What operators and sensors do that wait for the state of a model or a deployment."""

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
    """Waits until a model or a deployment is in a state, or never will be."""

    def _what(self, kind: str, resource_id: str) -> str:
        """Names the resource in messages."""
        return f"{kind.capitalize()} {resource_id}"

    def _wait(
        self, context: Context, kind: str, resource_id: str, target: str, model_id: str | None = None
    ) -> None:
        """
        Wait, in the triggerer or here.

        :param kind: ``model`` or ``deployment``.
        :param target: see :mod:`lucidworks_provider.jobs.states`.
        :param model_id: of a deployment whose model is known.
        """
        from lucidworks_provider.triggers.models import LucidworksStateTrigger, wait_for_state

        deadline = self._deadline(context)
        if self._in_triggerer:
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
        """Return where the wait ended well; else raise what it means."""
        what, target = self._what(event["kind"], event["resource_id"]), event["target"]
        state, message = event.get("state"), event.get("message") or ""
        if event["ending"] != "done":
            _raise(event, f"{what} is {state or 'not there'}", target, message, self._waited(context))
        self.log.info("%s: %s", what, state or "gone")


def _raise(event: dict[str, Any], stands: str, target: str, message: str, limit: str) -> NoReturn:
    match event["ending"]:
        case "failed":
            raise JobFailedError(f"{stands}, and will not get to {target!r}. {message}".strip())
        case "late":
            raise JobTimeoutError(
                f"{stands}, and was not {target!r} within {limit}. {message} A retry goes on waiting for the "
                "same one."
            )
    failed = LucidworksError(f"{stands}; waiting for {target!r} failed: {message}")
    failed.retryable = bool(event.get("retryable"))
    raise failed
