# SPDX-License-Identifier: Apache-2.0
"""
The DAG of each cell of ``dev.matrix``; its DAG folder has a copy.

A token by the default store, a job that is waited for in the triggerer, and a task whose process is killed after it
has submitted: its next try must find the jobs again, by the record beside the result on every version.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, BaseOperator

from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

OUT = Path(os.environ["MATRIX_OUT"])
# Airflow 3.0 does not retry a task when only its process is killed, but does when its worker dies as well.
WITH_SUPERVISOR = version("apache-airflow").startswith("3.0.")
CHUNKS: dict[str, Any] = {"chunker": "sentence", "model_id": "gte-small", "poll_interval": 2}


class Token(BaseOperator):
    """Writes down which token it got, without showing it."""

    def execute(self, context: Any) -> str:
        """Ask the hook."""
        token = LucidworksAuthHook().get_token()
        return hashlib.sha256(token.encode()).hexdigest()


class Dies(LucidworksChunkOperator):
    """Dies by ``kill -9`` in its first try, as soon as the record says that its job was submitted."""

    def execute(self, context: Any) -> Any:
        """Chunk, or die."""
        if context["ti"].try_number == 1:
            threading.Thread(target=self._die, daemon=True).start()
        return super().execute(context)

    def _die(self) -> None:
        while True:
            for record in OUT.glob("_killed.parquet.*/record.json"):
                if json.loads(record.read_text())["jobs"]:
                    if WITH_SUPERVISOR:
                        os.kill(os.getppid(), signal.SIGKILL)
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.02)


with DAG(
    "matrix",
    schedule="@once",
    start_date=datetime(2026, 1, 1),
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1), "retry_policy": LucidworksRetryPolicy()},
):
    token = Token(task_id="token", retries=0)
    deferred = LucidworksChunkOperator(
        task_id="deferred",
        documents=[{"id": "a", "text": "Once deferred."}, {"id": "b", "text": "Twice deferred."}],
        result_path=f"{OUT}/deferred.parquet",
        deferrable=True,
        **CHUNKS,
    )
    killed = Dies(
        task_id="killed",
        text="Only once submitted.",
        result_path=f"{OUT}/killed.parquet",
        deferrable=False,
        **CHUNKS,
    )
    token >> deferred >> killed
