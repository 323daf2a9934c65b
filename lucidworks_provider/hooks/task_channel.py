# SPDX-License-Identifier: Apache-2.0
"""
Which processes of a task reach Airflow's API server, and how the others read a connection.

On Airflow 3 a task reads and writes through a channel to its supervisor, one socket for one process. A child of the
task process cannot use it:

=====================================  =================================================================
child                                  its channel
=====================================  =================================================================
``os.fork``                            the task's socket: each process could read the other's responses
``multiprocessing`` with fork          closed: multiprocessing replaces file descriptor 0 by ``/dev/null``
``multiprocessing`` with spawn         none
=====================================  =================================================================

A spawned child of a task cannot import Airflow 3 unless ``_AIRFLOW__AS_LIBRARY`` is set: its environment has an
invalid database URL. A supervisor forks its task process as well, which then opens a channel of its own.

The hooks import this module at once: its handler of forks must be registered before a task forks.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from socket import socket
from typing import Any

from lucidworks_provider.errors import ConfigurationError

_NAME = "SUPERVISOR_COMMS"
# The channel of the process that this one was forked from.
_inherited: Any = None


def has_foreign_channel() -> bool:
    """Whether the channel of this process belongs to the process that it was forked from."""
    channel = _channel()
    if _inherited is not None and channel in (None, _inherited):
        return True
    # Also if this module is first imported in the child.
    inner = getattr(channel, "socket", None)
    return isinstance(inner, socket) and not _is_socket(inner)


def is_child_of_task() -> bool:
    """Whether this process is a forked or spawned child of a task process."""
    if has_foreign_channel():
        return True
    from multiprocessing import parent_process

    spawned = parent_process() is not None and _channel() is None and "airflow.sdk" in sys.modules
    # Airflow sets it in the environment of a task; an API server's own workers are spawned as well.
    return spawned and "AIRFLOW_CTX_TASK_ID" in os.environ


@contextmanager
def reading_connection(conn_id: str) -> Iterator[None]:
    """
    Read an Airflow connection; in a child of a task from the environment and secrets backends alone.

    Include the decoding of ``extra``: Airflow sends what it masks through the channel.

    :raises ConfigurationError: in a child of a task, which cannot read it; or there is none, which is retryable.
    """
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    channel = _channel()
    hidden = has_foreign_channel() and channel is not None
    if hidden:
        vars(_task_runner()).pop(_NAME, None)
    try:
        yield
    except (AirflowNotFoundException, ImportError) as err:
        if is_child_of_task():
            raise ConfigurationError(
                f"Connection {conn_id!r} cannot be read in a child process of a task (multiprocessing, "
                "ProcessPoolExecutor, os.fork), which has no access to Airflow's API server. Call from the task "
                "process (with threads for parallel calls), map tasks with .expand, or define the connection in the "
                f"environment (AIRFLOW_CONN_{conn_id.upper()}) or a secrets backend."
            ) from err
        if isinstance(err, ImportError):
            raise
        # On Airflow 3, an unreachable API server raises the same error.
        raise ConfigurationError(
            f"Connection {conn_id!r} does not exist, or Airflow cannot return it now."
        ).as_retryable() from err
    finally:
        if hidden:
            setattr(_task_runner(), _NAME, channel)


def _task_runner() -> Any:
    return sys.modules.get("airflow.sdk.execution_time.task_runner")


def _channel() -> Any:
    return getattr(_task_runner(), _NAME, None)


def _is_socket(inner: socket) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(inner.fileno()).st_mode)
    except OSError:
        # Closed: the process is about to end.
        return True


def _after_fork() -> None:
    global _inherited  # noqa: PLW0603
    _inherited = _channel() or _inherited


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
