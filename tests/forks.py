# SPDX-License-Identifier: Apache-2.0
"""Processes that know nothing of the test's process or of another one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.context import ForkServerProcess
from typing import Any

# Each is forked from a process that has only imported what they need, five seconds' work.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        "adlfs",
        "airflow.providers.amazon.aws.hooks.base_aws",
        "airflow.providers.redis.hooks.redis",
        "lucidworks_provider.hooks.stores.redis",
        "lucidworks_provider.client.auth.source",
        "lucidworks_provider.client.http.rate_limiter",
        "lucidworks_provider.client.http.aio",
        "lucidworks_provider.client.http.sync",
        "lucidworks_provider.operators.chunking",
        "lucidworks_provider.operators.prediction",
        "pyarrow.parquet",
        "pytest",
        "s3fs",
    ]
)


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Start a process that runs a function of a module, in the environment of now."""
    process = PROCESSES.Process(target=_run, args=(dict(os.environ), target, arguments))
    process.start()
    return process


def _run(environment: Mapping[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)  # the server of the forks has that of its own start
    target(*arguments)
