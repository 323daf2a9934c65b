# SPDX-License-Identifier: Apache-2.0
"""fsspec's ``memory://`` as a storage that Airflow knows; it represents every remote file system."""

from typing import Any

import fsspec

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach


def memory_store() -> Any:
    """The file system; :func:`tests.conftest.empty_memory_store` empties it before each test."""
    return attach(protocol="memory", fs=fsspec.filesystem("memory")).fs
