# SPDX-License-Identifier: Apache-2.0
"""Airflow Variables, with the errors of this package."""

from __future__ import annotations

from lucidworks_provider.errors import TokenStoreError
from lucidworks_provider.hooks.stores import supervisor


def get_variable(key: str) -> str | None:
    """
    Read a Variable; None if there is none.

    :raises TokenStoreError: Airflow is unavailable.
    """
    _check_process()
    from airflow.providers.common.compat.sdk import Variable

    try:
        value = Variable.get(key)
    except KeyError:  # Airflow 2
        return None
    except Exception as err:  # noqa: BLE001  the SDK has one error for a missing Variable and for everything else
        if "VARIABLE_NOT_FOUND" in str(getattr(err, "error", "")):
            return None
        raise _down("read", err) from None
    return None if value is None else str(value)


def set_variable(key: str, value: str, description: str) -> None:
    """
    Write a Variable.

    :raises TokenStoreError: Airflow is unavailable.
    """
    _check_process()
    from airflow.providers.common.compat.sdk import Variable

    try:
        Variable.set(key, value, description=description)
    except Exception as err:  # noqa: BLE001  any error means that the store is down
        raise _down("written", err) from None


def _check_process() -> None:
    if supervisor.has_foreign_channel():
        raise _outside()


def _down(verb: str, err: Exception) -> TokenStoreError:
    if isinstance(err, ImportError):
        # The SDK raises it in a process without a supervisor.
        return _outside()
    return TokenStoreError(
        f"The Variable that this fleet shares its access through could not be {verb} ({type(err).__name__}); "
        "this passes with the API server."
    )


def _outside() -> TokenStoreError:
    if supervisor.is_child_of_task():
        error = TokenStoreError(
            "This process is out of Airflow's reach: a child process of a task (multiprocessing, "
            "ProcessPoolExecutor, os.fork) cannot use the task's channel to the API server, so it cannot share an "
            "access token through a Variable. Call from the task process (with threads for parallel calls), map "
            "tasks with .expand, or set share_via to redis, with both connections in the environment or a secrets "
            "backend. With memory, each child process invalidates the token of all others with this client id."
        )
    else:
        error = TokenStoreError(
            "This process is out of Airflow's reach (a notebook, a script, a virtualenv task without Airflow), so "
            "it cannot share an access token with workers and triggerers through a Variable. Call from a task, or "
            "set share_via to redis; or to memory, which costs every other process with this client id its access "
            "at each start, so give it a client id of its own then."
        )
    error.retryable = False
    return error
