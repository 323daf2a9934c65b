# SPDX-License-Identifier: Apache-2.0
"""What the operators run against: the emulator, or a server that a test scripts; and the attempts of one task."""

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.jobs import JobState
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.state import LogRecord
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.operators.base import JobOperator
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)
from lucidworks_provider.triggers import LucidworksJobsTrigger
from tests.task_state import TaskStateStore

both_stores = pytest.mark.parametrize(
    "context", [True, False], ids=["with state store", "without state store"], indirect=True
)
LLAMA = "llama-3-8b-instruct"
MEMORY = "53417d2f-6b0e-47e4-8610-e6842b84a87b"


Reply = Callable[[str, dict[str, Any]], tuple[int, Any]]


@dataclass
class Scripted:
    """A server that answers what a function says; ``heard`` are the bodies of its POSTs."""

    url: str
    heard: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def scripted(reply: Reply) -> Iterator[Scripted]:
    """
    Serve ``/ai/*`` where the emulator is too kind.

    :param reply: gets path and decoded body, gives a status and what is the body (JSON unless bytes).
    """
    script = Scripted("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(data) if data else {}
            if self.command == "POST":
                script.heard.append(body)
            status, answer = reply(self.path, body)
            content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response_only(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            script.url = f"http://127.0.0.1:{server.server_address[1]}"
            yield script
        finally:
            server.shutdown()
            thread.join(5)


@dataclass
class Service:
    """The emulator, with the faults that a test injects and the figures that it reads."""

    emulator: RunningEmulator
    env: pytest.MonkeyPatch
    servers: ExitStack

    def connect(self, conn_id: str = "lucidworks_default", **parts: Any) -> None:
        """Make it a connection; ``extra`` is added to what leads to it."""
        given = json.loads(self.emulator.conn_json())
        extra = given["extra"] | {"share_via": "memory"} | parts.pop("extra", {})
        self.env.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(given | parts | {"extra": extra}))

    def answers(self, reply: Reply) -> Scripted:
        """Until the test ends, a function gives the responses instead."""
        server = self.servers.enter_context(scripted(reply))
        self.connect(extra={"application_url": server.url})
        return server

    def settings(self, **changes: Any) -> None:
        """Turn switches."""
        self.emulator.state.settings = self.emulator.state.settings.patched(changes)

    def fault(self, match: str, kind: str, times: int = 1, **more: Any) -> None:
        """Order faults."""
        order = {"match": match, "kind": kind, "times": times} | more
        self.emulator.state.faults.inject(Fault.from_json(order))

    def heal(self) -> None:
        """Cancel them."""
        self.emulator.state.faults.clear()

    def calls(self, endpoint: str) -> list[LogRecord]:
        """The requests to an endpoint, in the order in which they ended."""
        return [record for record in self.emulator.state.log if record.endpoint == endpoint]

    def sent(self, endpoint: str = "predict") -> Counter[str | None]:
        """How often each batch was answered, by the hash of its texts."""
        return Counter(record.text_sha256 for record in self.calls(endpoint) if record.items)

    def submitted(self) -> Counter[str | None]:
        """How often each batch or text became a job."""
        return Counter(
            record.text_sha256
            for record in self.emulator.state.log
            if record.endpoint in {"submit", "submit-prediction"} and record.job_id
        )

    def nothing_sent(self) -> bool:
        """Whether the service has received no request, not even for a token."""
        return len(self.emulator.state.log) == 0

    def in_flight(self) -> int:
        """The largest number of predictions in flight at one moment."""
        spans = [(record.time, record.time + record.seconds) for record in self.calls("predict")]
        return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)

    def supersede(self) -> None:
        """Another system requests a token with the same client id."""
        self.emulator.state.tokens.kill([Scope.PREDICT])

    def job(self, position: int, state: str, message: str = "") -> None:
        """Put a job into a state; GONE forgets it."""
        book = self.emulator.state.jobs
        found = book.all()[position]
        if state == "GONE":
            book.forget(found.job_id)
        else:
            book.force(found, JobState(state), message)


def lineage_of(operator: Any) -> tuple[list[str], str, int, dict[str, str]]:
    """Of an operator that has ended: its inputs, its output, rows, and the types of the columns."""
    facets = operator.get_openlineage_facets_on_complete(None)
    [output] = facets.outputs
    columns = {one.name: one.type for one in output.facets["schema"].fields}
    inputs = [one.name for one in facets.inputs]
    return inputs, output.name, output.outputFacets["outputStatistics"].rowCount, columns


class Death(BaseException):
    """The process is gone: nothing after this runs."""


def die(*_: Any, **__: Any) -> Any:
    raise Death


def new_context(*, state_store: bool = True) -> dict[str, Any]:
    """A task instance; its attempts share it."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=2, try_number=1)
    return {"ti": ti} | ({"task_state_store": TaskStateStore()} if state_store else {})


def direct(inputs: Any, **arguments: Any) -> LucidworksPredictionOperator:
    """A fresh synchronous operator, as every attempt has one."""
    defaults: dict[str, Any] = {"task_id": "t", "use_case": "passthrough", "model_id": LLAMA, "batch_size": 4}
    return LucidworksPredictionOperator(**defaults | {"inputs": inputs} | arguments)


def by_jobs(inputs: Any, path: Path | str, **arguments: Any) -> LucidworksAsyncPredictionOperator:
    """A fresh asynchronous operator."""
    defaults: dict[str, Any] = {
        "task_id": "t",
        "use_case": "passthrough",
        "model_id": LLAMA,
        "batch_size": 4,
        "result_path": str(path),
        "poll_interval": 0.05,
        "timeout": 20,
        "deferrable": False,
    }
    return LucidworksAsyncPredictionOperator(**defaults | {"inputs": inputs} | arguments)


def wait(deferred: TaskDeferred) -> dict[str, Any]:
    """Run a trigger as the triggerer does: made anew from its serialised form."""
    _, kwargs = deferred.trigger.serialize()
    kwargs = json.loads(json.dumps(kwargs))

    async def first() -> dict[str, Any]:
        async for event in LucidworksJobsTrigger(**kwargs).run():
            return dict(json.loads(json.dumps(event.payload)))
        raise AssertionError("no event")

    return asyncio.run(first())


def through_triggers(make: Callable[[], JobOperator], context: dict[str, Any]) -> dict[str, Any]:
    """Execute and resume until it returns, with a new operator each time as in a new process."""
    try:
        return make().execute(context)
    except TaskDeferred as deferred:
        waiting = deferred
    while True:
        try:
            return make().execute_complete(context, wait(waiting), **waiting.kwargs)
        except TaskDeferred as deferred:
            waiting = deferred


@dataclass
class Attempts:
    """
    The attempts of one task instance.

    :param make: makes the operator anew, as every attempt has one, with changed arguments.
    """

    make: Callable[..., Any]
    path: Path
    context: dict[str, Any]

    def run(self, **changes: Any) -> Any:
        """To its end, through the triggerer where it defers."""
        return through_triggers(lambda: self.make(**changes), self.context)

    def defer(self, **changes: Any) -> TaskDeferred:
        with pytest.raises(TaskDeferred) as deferred:
            self.make(**{"deferrable": True} | changes).execute(self.context)
        return deferred.value

    def resume(self, deferred: TaskDeferred, event: dict[str, Any] | None = None, **changes: Any) -> Any:
        """After an event, that of its trigger unless one is given."""
        event = wait(deferred) if event is None else event
        task = self.make(**{"deferrable": True} | changes)
        return task.execute_complete(self.context, event, **deferred.kwargs)

    def defer_again(self, deferred: TaskDeferred, event: dict[str, Any] | None = None) -> TaskDeferred:
        with pytest.raises(TaskDeferred) as again:
            self.resume(deferred, event)
        return again.value

    def die(self, place: Any, name: str, ending: Any = die) -> None:
        """An attempt that ends with its process, in a function that is replaced."""
        with pytest.MonkeyPatch.context() as dying:
            dying.setattr(place, name, ending)
            with pytest.raises(Death):
                self.run()

    def clear(self) -> None:
        self.context["ti"].max_tries += 3

    def rows(self) -> list[dict[str, Any]]:
        return rows_of(self.path)

    def responses(self) -> list[Any]:
        return [row["response"] for row in self.rows()]

    def files(self) -> set[str]:
        return {file.name for file in self.path.parent.rglob("*") if file.is_file()}

    def only_the_result(self) -> bool:
        """Nothing is left beside it; without a state store the record has no other place."""
        record = set() if "task_state_store" in self.context else {"record.json"}
        return self.files() == {self.path.name} | record


def rows_of(path: Path) -> list[dict[str, Any]]:
    """What the next task reads."""
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def serialized(dag: DAG) -> str:
    """What Airflow stores of a DAG file."""
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialized
    except ImportError:  # Airflow below 3.2
        from airflow.serialization.serialized_objects import SerializedDAG as Serialized
    return json.dumps(Serialized.to_dict(dag))


def hash_of(*texts: str) -> str:
    """As the emulator's log shows a batch."""
    return hashlib.sha256("".join(texts).encode()).hexdigest()
