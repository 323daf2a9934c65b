# SPDX-License-Identifier: Apache-2.0
"""``@task.lucidworks_predict`` and ``@task.lucidworks_chunk``: what a function returns is what is asked."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.triggers import jobs
from lucidworks_provider.triggers.jobs import LucidworksJobsTrigger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from lucidworks_provider.emulator.server import RunningEmulator


@pytest.fixture
def context() -> dict[str, Any]:
    from types import SimpleNamespace

    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0)
    return {"ti": ti, "ds": "2026-11-22"}


def made(decorated: Callable[..., Any], *arguments: Any) -> Any:
    """The operator that a decorated function makes within a DAG."""
    with DAG("d", schedule=None):
        return decorated(*arguments).operator


def test_the_inputs_of_a_prediction_come_from_the_function(
    emulator: RunningEmulator, context: dict[str, Any]
) -> None:
    @lucidworks_predict_task(
        use_case="summarization", model_id="llama-3-8b-instruct", use_case_config={"maxWords": 2}
    )
    def shorten(texts: list[str], ds: str | None = None) -> list[dict[str, str]]:
        return [{"id": f"{ds}-{n}", "text": text} for n, text in enumerate(texts)]

    rows = made(shorten, ["One two three. {{ nothing }}", "Four five six."]).execute(context)
    assert [(row["id"], row["response"]) for row in rows] == [
        ("2026-11-22-0", "One two"),
        ("2026-11-22-1", "Four five"),
    ]


def test_what_the_function_returns_is_not_rendered() -> None:
    @lucidworks_predict_task(use_case="passthrough", model_id="{{ params.model }}")
    def texts() -> list[str]:
        return []

    operator = made(texts)
    assert {"model_id", "op_args", "op_kwargs"} <= set(operator.template_fields)
    assert not {"inputs", "text", "documents"} & set(operator.template_fields)


@pytest.mark.parametrize("returned", ["One. Two.", [{"id": "a", "text": "One. Two."}]])
def test_documents_come_from_the_function(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, returned: Any
) -> None:
    @lucidworks_chunk_task(
        chunker="sentence",
        model_id="gte-small",
        chunker_config={"chunkSize": 1},
        result_path=str(tmp_path / "c.jsonl"),
        poll_interval=0.05,
        deferrable=False,
    )
    def documents() -> Any:
        return returned

    assert made(documents).execute(context)["chunks"] == 2


def test_a_function_is_not_called_again_after_the_wait(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "shortest_deferral", lambda: 0.0)
    calls: list[int] = []

    @lucidworks_chunk_task(
        chunker="sentence",
        model_id="gte-small",
        result_path=str(tmp_path / "c.jsonl"),
        poll_interval=0.05,
        deferrable=True,
    )
    def documents() -> list[dict[str, str]]:
        calls.append(1)
        return [{"id": "a", "text": f"Call number {len(calls)}."}]

    with pytest.raises(TaskDeferred) as deferred:
        made(documents).execute(context)
    _, kwargs = deferred.value.trigger.serialize()
    assert "Call number" not in json.dumps(kwargs)

    async def first() -> dict[str, Any]:
        async for event in LucidworksJobsTrigger(**kwargs).run():
            return dict(event.payload)
        raise AssertionError("no event")

    # Another process: the operator is made anew.
    resumed = made(documents)
    manifest = resumed.execute_complete(context, asyncio.run(first()), **deferred.value.kwargs)
    assert (manifest["documents"], len(calls)) == (1, 1)
    assert "Call number 1." in (tmp_path / "c.jsonl").read_text()
    # Neither the input nor a body stays beside the result. (Without a state store the record does.)
    assert b"Call number" not in b"".join(
        path.read_bytes() for path in tmp_path.rglob("_c.jsonl*/*") if path.is_file()
    )
