# SPDX-License-Identifier: Apache-2.0
"""
The errors of this package, as one tree.

::

    LucidworksError
    ├── ConfigurationError        an invalid connection; names the field and its valid values
    ├── InputError                an argument, refused before anything was sent or written
    ├── TransportError            no usable response arrived
    │   └── NotSentError          ... and the service has not received the request
    │       └── AcquireTimeoutError  ... which could not begin in time
    ├── ResponseError             the response is not a result
    │   ├── RequestRefusedError   400, 413, 422, other 4xx, a redirect: a retry does not help
    │   ├── TokenRefusedError     401: the access token is expired or superseded
    │   ├── ForbiddenError        403: wrong scope, or no permission
    │   ├── UnknownResourceError  404, 410: no such chunker, model or job
    │   ├── RateLimitError        429, with the service's Retry-After where it sent one
    │   ├── ServiceError          5xx, 408, and 425, after which also a submission is sent again
    │   ├── MalformedResponseError  a success status with a body that is not the documented one
    │   │   └── NoJobIdError      ... to a submission: a job with an unknown id may exist
    │   ├── ContentEncodingError  a success status with a body in an encoding that was not accepted
    │   └── AuthenticationError   the token endpoint refused the credentials
    ├── TokenError                no token, and a new one would invalidate that of other processes
    │   ├── TokenStoreError       the store of the shared token cannot be reached
    │   └── TokenContestedError   another system keeps requesting tokens with the same client id
    ├── AmbiguousResourceError    a model or deployment may be the one requested
    ├── StorageError              a storage location cannot be written or read
    ├── OutputBusyError           another task writes into the same output; names the task
    ├── BudgetExceededError       more requests or tokens than a task may use
    ├── TooManyRejectsError       more documents or inputs were rejected than max_reject_ratio allows
    └── JobError                  an asynchronous job, a training or a deployment
        ├── JobFailedError        the service reports ERROR
        ├── EmptyResultError      the service reports a result, which is empty
        ├── JobTimeoutError       not ready before the deadline; the job may continue
        ├── ResultGoneError       the result was returned before and is not on storage
        ├── SubmissionUnknownError  a POST without a response: a job with an unknown id may exist
        └── StorageNotSharedError   worker and triggerer do not see the same storage

``retryable``: whether the same call may succeed later.
"""

from __future__ import annotations

import copyreg
from typing import Any, Self


class LucidworksError(Exception):
    """
    Base of every error of this package.

    :ivar retry_after: seconds that the service asked to wait, if it did.
    """

    retryable: bool = False
    retry_after: float | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled without the constructor, which has keyword arguments.
        return copyreg.__newobj__, (type(self), *self.args), vars(self)  # type: ignore[attr-defined]

    def as_retryable(self) -> Self:
        """Override the class for a failure that a retry can resolve."""
        self.retryable = True
        return self


class ConfigurationError(LucidworksError, ValueError):
    """A connection cannot be used; names the connection and the field."""


class InputError(LucidworksError, ValueError):
    """An argument was refused before anything was sent or written."""


class TransportError(LucidworksError):
    """No usable response arrived; the service may or may not have processed the request."""

    retryable = True


class NotSentError(TransportError):
    """No connection could be made, so the service has not received the request."""


class AcquireTimeoutError(NotSentError):
    """A request with a time by which it must begin waited longer for other requests, or for the rate limiter."""


class ResponseError(LucidworksError):
    """
    The response of the service is not a result.

    :param message: the request, the status, and the message of the service.
    :param status: the HTTP status.
    :param retry_after: seconds of its ``Retry-After``, if there is one.
    """

    def __init__(self, message: str, *, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class RequestRefusedError(ResponseError):
    """A 4xx or a redirect, or a submission that the service reports as failed: a retry does not help."""


class TokenRefusedError(ResponseError):
    """401: the access token is expired, or a newer one of the same scope replaced it."""

    retryable = True


class ForbiddenError(ResponseError):
    """403: a token of the wrong scope, or an application without permission for the model."""


class UnknownResourceError(ResponseError):
    """404 or 410: unknown chunker, model or job; for a job also: its result is no longer kept."""


class RateLimitError(ResponseError):
    """429: over the contract's rate limit."""

    retryable = True


class ServiceError(ResponseError):
    """5xx, 408 or 425: the service or a gateway before it failed, or was not ready for the request."""

    retryable = True


class MalformedResponseError(ResponseError):
    """
    A success status with a body that is not JSON, or not the documented JSON.

    :ivar body: of a prediction, which is charged.
    """

    retryable = True
    body: bytes = b""


class NoJobIdError(MalformedResponseError):
    """A response to a submission without a job id: a job may exist, and another POST would create a second one."""


class ContentEncodingError(ResponseError):
    """
    A success status with a body in a ``Content-Encoding`` that the request did not accept.

    A proxy or gateway compresses responses. The service has executed the request, so repeating it would only be
    charged again.

    :param body: not decoded.
    :param encoding: the header.
    """

    def __init__(self, message: str, *, status: int, body: bytes = b"", encoding: str = "") -> None:
        super().__init__(message, status=status)
        self.body = body
        self.encoding = encoding

    def kept(self, where: str) -> None:
        """Say where the body is."""
        self.args = (f"{self} The undecoded response is stored in {where}.", *self.args[1:])


class AuthenticationError(ResponseError):
    """The token endpoint refused the client id and secret, or the scope."""


class TokenError(LucidworksError):
    """There is no token, and a new one would invalidate that of other processes with this client ID."""

    retryable = True


class TokenStoreError(TokenError):
    """The shared token store cannot be read or written from this process."""


class TokenContestedError(TokenError):
    """Another system with the same client ID keeps invalidating the shared token."""


class AmbiguousResourceError(LucidworksError):
    """An existing model or deployment may be the one requested. No other one was created."""


class StorageError(LucidworksError):
    """A storage location cannot be written or read."""

    retryable = True


class OutputBusyError(LucidworksError):
    """Another task, or another try of this one, writes into the same output; names it."""

    retryable = True


class BudgetExceededError(LucidworksError):
    """
    ``max_requests`` or ``max_tokens`` of a task is reached. Its message says which results are kept.

    Not retryable: an automatic retry would have a new budget. Clearing the task starts one.
    """


class TooManyRejectsError(LucidworksError):
    """
    More documents or inputs were rejected than ``max_reject_ratio`` allows, or too many in a row.

    Retryable for a catalogue, whose source may change; not for predictions, which would be charged again.
    """

    retryable = True


class JobError(LucidworksError):
    """An asynchronous job, a training or a deployment did not end in a result."""


class JobFailedError(JobError):
    """The service reports the status ERROR for a job, or that a training or deployment failed."""


class EmptyResultError(JobError):
    """A job is ready and its result is empty. Clearing the task submits it again, which is charged again."""


class JobTimeoutError(JobError):
    """A job, model or deployment was not ready before the deadline. A retry waits for the same one."""

    retryable = True


class ResultGoneError(JobError):
    """The service has returned the result before, or in part, and there is no copy on storage."""

    retryable = True


class SubmissionUnknownError(JobError):
    """
    A submission was sent and no response arrived: a job with an unknown id may exist.

    :param retry_after: seconds of its ``Retry-After``, if there is one.
    """

    retryable = True

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class StorageNotSharedError(JobError):
    """The process that should collect results does not see the storage that the task prepared."""


def check_documents_extra(what: str, *packages: str, otherwise: str = "") -> None:
    """
    Refuse what needs the extra ``documents`` where it is not installed. Imports none of it.

    :param what: the beginning of the message: ``Tables need``.
    :param otherwise: the end of the message.
    :raises InputError: names the packages and the extra.
    """
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in packages):
        names = " and ".join(packages)
        raise InputError(
            f"{what} {names}: pip install 'airflow-provider-lucidworks[documents]', on the workers too{otherwise}."
        )
