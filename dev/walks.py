# SPDX-License-Identifier: Apache-2.0
"""
The number of modules and of calls between them in three operations: ``make walks``.

========  ==============================================================================================
token     ``LucidworksAuthHook.get_token`` in a process without a token, shared in Airflow Variables
document  one document of ``LucidworksChunkOperator`` from ``execute`` to its row in the file
failure   one job that ends in ERROR, from ``execute`` to the error of the task
========  ==============================================================================================

Modules are those of the package whose functions ran; trips are pairs of different modules of which one called the
other. Imports do not count. ``-v`` prints the modules.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

PACKAGE = "lucidworks_provider"


class Walk:
    """Modules and calls of an operation, by ``sys.setprofile`` in every thread."""

    def __init__(self) -> None:
        self.modules: set[str] = set()
        self.trips: set[tuple[str, str]] = set()

    def profile(self, frame: FrameType, event: str, _: object) -> None:
        """Record a call."""
        here = frame.f_globals.get("__name__", "")
        if event != "call" or not here.startswith(PACKAGE) or here.startswith(f"{PACKAGE}.emulator"):
            return
        if any(one.f_code.co_name == "<module>" for one in _within_package(frame)):
            return  # an import
        self.modules.add(here)
        caller = next(_within_package(frame.f_back), None)
        there = "" if caller is None else caller.f_globals["__name__"]
        if there and there != here:
            self.trips.add((there, here))

    def take(self, step: Callable[[], Any]) -> Walk:
        """Run an operation and record its calls."""
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        try:
            step()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return self


def _within_package(frame: FrameType | None) -> Iterator[FrameType]:
    """A frame of the package and its callers."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(PACKAGE):
            yield frame
        frame = frame.f_back


@contextmanager
def variables_in_memory() -> Any:
    """Replace Airflow's Variables, which need a database."""
    from lucidworks_provider.hooks.stores import variables

    kept: dict[str, str] = {}
    variables.get_variable = kept.get  # type: ignore[assignment]
    variables.set_variable = lambda key, value, description: kept.update({key: value})
    yield


def main() -> None:
    """Print a line for each walk."""
    from lucidworks_provider.emulator import EmulatorSettings, running
    from lucidworks_provider.emulator.faults import Fault

    with running(EmulatorSettings(pending_polls=1)) as emulator, tempfile.TemporaryDirectory() as folder:
        os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = emulator.conn_json()
        from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook
        from lucidworks_provider.operators.chunking import LucidworksChunkOperator

        context: Any = {
            "ti": SimpleNamespace(
                dag_id="d", run_id="r", task_id="t", map_index=-1, try_number=1, max_tries=0, xcom_push=print
            )
        }

        def chunk(name: str) -> None:
            LucidworksChunkOperator(
                task_id="t",
                chunker="sentence",
                model_id="gte-small",
                documents=[{"id": "a", "text": "One. Two."}],
                result_path=str(Path(folder) / name),
                deferrable=False,
                poll_interval=0.1,
            ).execute(context)

        with variables_in_memory():
            walks = {"token": Walk().take(LucidworksAuthHook().get_token)}
            walks["document"] = Walk().take(lambda: chunk("one.jsonl"))
            emulator.state.faults.inject(Fault.from_json({"kind": "error-job", "match": "submit"}))
            walks["failure"] = Walk().take(lambda: _failing(chunk))
    for name, walk in walks.items():
        print(f"{name:<10}{len(walk.modules):>4} modules{len(walk.trips):>5} trips")
        if "-v" in sys.argv:
            print(*sorted(module.removeprefix(f"{PACKAGE}.") for module in walk.modules), sep="\n    ")


def _failing(chunk: Callable[[str], None]) -> None:
    from lucidworks_provider.errors import JobFailedError

    with suppress(JobFailedError):
        chunk("two.jsonl")
        raise AssertionError("the job has not failed")


if __name__ == "__main__":
    main()
