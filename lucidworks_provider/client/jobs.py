# SPDX-License-Identifier: Apache-2.0
"""The state of an asynchronous job, and its result."""

from __future__ import annotations

from lucidworks_provider.client.api.http import Response
from lucidworks_provider.client.api.jobs import JobKind, poll_request
from lucidworks_provider.client.endpoint import Call, endpoint


def poll_job(kind: JobKind, job_id: str) -> Call[bytes]:
    """
    The body of a job's GET as it came, for callers that store it before they parse it.

    **It may carry the only copy of a result.**

    :param kind: :data:`~lucidworks_provider.client.api.jobs.CHUNKING` or ``PREDICTION``.
    :param job_id: what the submission returned.
    :raises UnknownResourceError: no such job, or its result is no longer kept.
    """
    return endpoint(lambda settings: poll_request(settings.application_base, kind, job_id), _body)


def _body(response: Response) -> bytes:
    return response.body
