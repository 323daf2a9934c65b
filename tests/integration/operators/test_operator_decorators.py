# SPDX-License-Identifier: Apache-2.0
"""``@task.lucidworks_predict`` and ``@task.lucidworks_chunk``: what a function returns is what is asked."""

from collections import UserList
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG
from operator_service import Attempts, Service, new_context
from sqlalchemy import create_engine, text

from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.errors import InputError


def made(decorated: Callable[..., Any], *arguments: Any) -> Any:
    """The operator that a decorated function makes within a DAG."""
    with DAG("d", schedule=None):
        return decorated(*arguments).operator


def predicted(returned: Any, **arguments: Any) -> Any:
    """What a task returns whose function returns this."""
    given = {"task_id": "t", "use_case": "summarization", "model_id": "llama-3-8b-instruct"} | arguments
    return made(lucidworks_predict_task(**given)(lambda: returned)).execute(new_context())


def test_the_inputs_of_a_prediction_come_from_the_function(service: Service) -> None:
    @lucidworks_predict_task(
        use_case="summarization", model_id="llama-3-8b-instruct", use_case_config={"maxWords": 2}
    )
    def shorten(texts: list[str], ds: str | None = None) -> list[dict[str, str]]:
        return [{"id": f"{ds}-{n}", "text": text} for n, text in enumerate(texts)]

    operator = made(shorten, ["One two three. {{ nothing }}", "Four five six."])
    rows = operator.execute(new_context() | {"ds": "2026-11-22"})
    wanted = [("2026-11-22-0", "One two"), ("2026-11-22-1", "Four five")]
    assert [(row["id"], row["response"]) for row in rows] == wanted


def test_what_the_function_returns_is_not_rendered() -> None:
    given = {"use_case": "passthrough", "model_id": "{{ params.model }}", "task_id": "t"}
    fields = set(made(lucidworks_predict_task(**given)(lambda: [])).template_fields)
    assert {"model_id", "op_args", "op_kwargs"} <= fields
    assert not {"inputs", "text", "documents"} & fields


def sql_rows() -> Any:
    """Rows of a query, as a hook of a database returns them."""
    with create_engine("sqlite://").connect() as connection:
        return connection.execute(text("SELECT 7 AS id, 'One. Two.' AS text")).mappings().all()


RETURNED = {
    "text": "One. Two.",
    "list": [{"id": "a", "text": "One. Two."}],
    "tuple": ({"id": "a", "text": "One. Two."},),
    "sql rows": sql_rows(),
    # As the XComs of mapped tasks: a sequence that is no list, and that JSON does not know.
    "mapped tasks": UserList([MappingProxyType({"id": "a", "text": "One. Two."})]),
}


@pytest.fixture
def chunking(service: Service, context: dict[str, Any], tmp_path: Path) -> Attempts:
    """A task whose function returns `returned`, which is called if it is callable."""
    path = tmp_path / "c.jsonl"

    def make(returned: Any, **changes: Any) -> Any:
        given = {"chunker": "sentence", "model_id": "gte-small", "chunker_config": {"chunkSize": 1}}
        given |= {"task_id": "t", "result_path": str(path), "poll_interval": 0.05}
        task = lucidworks_chunk_task(**given, **changes)
        return made(task(returned if callable(returned) else lambda: returned))

    return Attempts(make, path, context)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("returned", RETURNED.values(), ids=RETURNED)
def test_documents_come_from_the_function(chunking: Attempts, returned: Any, deferrable: bool) -> None:
    assert chunking.run(returned=returned, deferrable=deferrable)["chunks"] == 2


@pytest.mark.parametrize("kind", ["sql rows", "mapped tasks", "tuple"])
def test_inputs_of_a_prediction_are_any_sequence_of_mappings(service: Service, kind: str) -> None:
    [row] = predicted(RETURNED[kind])
    assert row["id"] == {"sql rows": 7}.get(kind, "a")


def test_the_documents_of_a_question_are_any_sequence_of_mappings(service: Service) -> None:
    documents = UserList([MappingProxyType({"body": "To the Oktoberfest.", "source": "a"})])
    assert len(predicted(UserList([{"text": "Why?", "documents": documents}]), use_case="rag")) == 1


def test_what_json_does_not_know_is_refused_before_anything_is_sent(service: Service) -> None:
    with pytest.raises(InputError, match=r"inputs\[0\].*set"):
        predicted([{"text": "a", "since": {1}}], use_case="other", model_id="m")
    assert service.nothing_sent()


def test_a_function_is_not_called_again_after_the_wait(chunking: Attempts) -> None:
    calls: list[int] = []

    def documents() -> list[dict[str, str]]:
        calls.append(1)
        return [{"id": "a", "text": f"Call number {len(calls)}."}]

    deferred = chunking.defer(returned=documents)
    assert "Call number" not in str(deferred.trigger.serialize())
    manifest = chunking.resume(deferred, returned=documents)
    assert (manifest["documents"], len(calls)) == (1, 1)
    assert [row["text"] for row in chunking.rows()] == ["Call number 1."]
    # Neither the input nor a body stays beside the result.
    assert chunking.files() == {"c.jsonl"}
