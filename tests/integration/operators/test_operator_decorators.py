# SPDX-License-Identifier: Apache-2.0
"""``@task.lucidworks_predict`` and ``@task.lucidworks_chunk``: what a function returns is what is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred
from sqlalchemy import create_engine, text

from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.errors import InputError
from lucidworks_provider.triggers import LucidworksJobsTrigger

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


def sql_rows() -> Any:
    """Rows of a query, as a hook of a database returns them."""
    with create_engine("sqlite://").connect() as connection:
        return connection.execute(text("SELECT 7 AS id, 'One. Two.' AS text")).mappings().all()


class Lazy(Sequence[Any]):
    """The XComs of mapped tasks: a sequence that is no list, and that JSON does not know."""

    def __init__(self, *values: Any) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]


RETURNED = {
    "text": "One. Two.",
    "list": [{"id": "a", "text": "One. Two."}],
    "tuple": ({"id": "a", "text": "One. Two."},),
    "sql rows": sql_rows(),
    "mapped tasks": Lazy(MappingProxyType({"id": "a", "text": "One. Two."})),
}


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED)
def test_documents_come_from_the_function(
    emulator: RunningEmulator,
    context: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    returned: Any,
    deferrable: bool,
) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")

    @lucidworks_chunk_task(
        chunker="sentence",
        model_id="gte-small",
        chunker_config={"chunkSize": 1},
        result_path=str(tmp_path / "c.jsonl"),
        poll_interval=0.05,
        deferrable=deferrable,
    )
    def documents() -> Any:
        return returned

    if not deferrable:
        assert made(documents).execute(context)["chunks"] == 2
        return
    with pytest.raises(TaskDeferred) as deferred:
        made(documents).execute(context)
    event = asyncio.run(first_event(deferred.value))
    assert made(documents).execute_complete(context, event, **deferred.value.kwargs)["chunks"] == 2


@pytest.mark.parametrize("kind", ["sql rows", "mapped tasks", "tuple"])
def test_inputs_of_a_prediction_are_any_sequence_of_mappings(
    emulator: RunningEmulator, context: dict[str, Any], kind: str
) -> None:
    @lucidworks_predict_task(use_case="summarization", model_id="llama-3-8b-instruct")
    def inputs() -> Any:
        return RETURNED[kind]

    [row] = made(inputs).execute(context)
    assert row["id"] == {"sql rows": 7}.get(kind, "a")


def test_the_documents_of_a_question_are_any_sequence_of_mappings(
    emulator: RunningEmulator, context: dict[str, Any]
) -> None:
    @lucidworks_predict_task(use_case="rag", model_id="llama-3-8b-instruct")
    def questions() -> Any:
        documents = Lazy(MappingProxyType({"body": "To the Oktoberfest.", "source": "a"}))
        return Lazy({"text": "Why?", "documents": documents})

    assert len(made(questions).execute(context)) == 1


def test_what_json_does_not_know_is_refused_before_anything_is_sent(
    emulator: RunningEmulator, context: dict[str, Any]
) -> None:
    @lucidworks_predict_task(use_case="other", model_id="m")
    def inputs() -> Any:
        return [{"text": "a", "since": {1}}]

    with pytest.raises(InputError, match=r"inputs\[0\].*set"):
        made(inputs).execute(context)
    assert len(emulator.state.log) == 0


async def first_event(deferred: TaskDeferred) -> dict[str, Any]:
    """What the triggerer sends."""
    _, kwargs = deferred.trigger.serialize()
    async for event in LucidworksJobsTrigger(**kwargs).run():
        return dict(event.payload)
    raise AssertionError("no event")


def test_a_function_is_not_called_again_after_the_wait(
    emulator: RunningEmulator, context: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
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

    # Another process: the operator is made anew.
    resumed = made(documents)
    manifest = resumed.execute_complete(
        context, asyncio.run(first_event(deferred.value)), **deferred.value.kwargs
    )
    assert (manifest["documents"], len(calls)) == (1, 1)
    assert "Call number 1." in (tmp_path / "c.jsonl").read_text()
    # Neither the input nor a body stays beside the result. (Without a state store the record does.)
    assert b"Call number" not in b"".join(
        path.read_bytes() for path in tmp_path.rglob("_c.jsonl*/*") if path.is_file()
    )
