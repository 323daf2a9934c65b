# SPDX-License-Identifier: Apache-2.0
"""
Services on asyncio alone that replace the emulator where its own work would be measured.

``python -m benchmarks.servers SERVICE [ARGUMENT …]`` prints the port, and ends with its standard input. Each service
issues tokens; ``/control`` changes and returns its state.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import resource
import sys
import time
from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

# For clients that cannot request a token.
FIXED_TOKEN = "a-token-for-clients-without-one"  # noqa: S105
TOKEN = {
    "access_token": "an.issued.token",
    "token_type": "Bearer",
    "expires_in": 36_000,
    "scope": "machinelearning.predict",
}
# Bodies are written in pieces, so that many large ones do not fill the memory.
_PIECE = 256 * 1024
_REASONS = {200: "OK", 401: "Unauthorized", 404: "Not Found"}


class Request(NamedTuple):
    """``connection`` identifies the connection."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: asyncio.StreamWriter


class Service:
    """Responds to requests."""

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """Change the state; the counters."""
        raise NotImplementedError

    async def respond(self, request: Request) -> tuple[int, bytes] | None:
        """Status and body; None breaks the connection."""
        raise NotImplementedError

    def closed(self, connection: asyncio.StreamWriter) -> None:
        """A connection was closed."""

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of a connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip().split("\r\n")
                method, target, _ = first.split(" ")
                fields = (line.partition(":") for line in lines)
                headers = {name.lower(): value.strip() for name, _, value in fields}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                request = Request(method, target.partition("?")[0], headers, body, writer)
                if request.path == "/control":
                    response: tuple[int, bytes] | None = (200, _json(self.control(json.loads(body or b"{}"))))
                elif request.path.startswith("/oauth2/"):
                    response = 200, _json(TOKEN)
                else:
                    response = await self.respond(request)
                if response is None:
                    return
                await _write(writer, *response)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.closed(writer)
            writer.close()


async def _write(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    head = (
        f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: application/json\r\nDate: {date}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    rest = memoryview(body)
    writer.write(head + rest[:_PIECE])
    await writer.drain()
    for begin in range(_PIECE, len(rest), _PIECE):
        writer.write(rest[begin : begin + _PIECE])
        await writer.drain()


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


class Embeddings(Service):
    """
    The APIs of Lucidworks AI, OpenAI and Cohere, for :mod:`benchmarks.side_by_side`.

    A response takes 10 ms, and 1.25 ms per text. ``{"lost": N}`` resets the counters, and breaks the connection once,
    during the response with the N-th text.
    """

    VECTOR = json.dumps([round(0.001 * number, 3) for number in range(384)])
    # Field of the texts, then of the response: begin, item, end.
    APIS = (
        (
            "/ai/",
            "batch",
            '{"generatedTokens": [], "predictions": [',
            '{"tokensUsed": 7, "vector": VECTOR}',
            "]}",
        ),
        (
            "/v2/",
            "texts",
            '{"id": "1", "texts": [], "response_type": "embeddings_by_type", "embeddings": {"float": [',
            "VECTOR",
            "]}}",
        ),
        (
            "/v1/",
            "input",
            '{"object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": [',
            '{"object": "embedding", "index": 0, "embedding": VECTOR}',
            "]}",
        ),
    )

    def __init__(self) -> None:
        self.inputs = self.lost = 0

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """The number of requested texts."""
        if "lost" in order:
            self.inputs, self.lost = 0, order["lost"]
        return {"inputs": self.inputs}

    async def respond(self, request: Request) -> tuple[int, bytes] | None:
        """Vectors."""
        for prefix, field, begin, item, end in self.APIS:
            if request.path.startswith(prefix):
                inputs = len(json.loads(request.body)[field])
                await asyncio.sleep(0.01 + 0.00125 * inputs)
                self.inputs += inputs
                if self.lost and self.inputs >= self.lost:
                    self.lost = 0
                    return None
                items = ", ".join([item.replace("VECTOR", self.VECTOR)] * inputs)
                return 200, (begin + items + end).encode()
        return 404, b""


class Vectors(Service):
    """
    Embeddings without latency, for :mod:`benchmarks.prediction_table`.

    Responses are prepared, one for each number of inputs, so that two cores suffice for client and service.
    """

    _TEXT = re.compile(rb'"text": ?"row (\d+)')

    def __init__(self, dimension: str) -> None:
        self.dimension = int(dimension)
        self.seen: Counter[bytes] = Counter()

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """The numbers of inputs and of different inputs; ``{"reset": true}`` resets both."""
        if order.get("reset"):
            self.seen.clear()
        return {"inputs": self.seen.total(), "different": len(self.seen)}

    async def respond(self, request: Request) -> tuple[int, bytes] | None:
        """Vectors."""
        rows = self._TEXT.findall(request.body)
        self.seen.update(rows)
        return 200, _vectors(len(rows), self.dimension)


@lru_cache
def _vectors(inputs: int, dimension: int) -> bytes:
    numbers = random.Random(inputs)
    predictions = [
        {
            "tokensUsed": {"inputTokens": 50},
            "vector": [round(numbers.uniform(-0.1, 0.1), 8) for _ in range(dimension)],
        }
        for _ in range(inputs)
    ]
    return json.dumps({"generatedTokens": [], "predictions": predictions}).encode()


class Jobs(Service):
    """
    Jobs that become ready at the same moment, for :mod:`benchmarks.triggers`. A result is returned once.

    ``GET /ai/async-chunking/ID``: ``SUBMITTED``; when ready, the result, then ``RETRIEVED``.
    ``GET /missing/ai/…/ID``: 404 until ready, for a client that ends at any other response.
    ``GET /held/ai/…/ID``: no response until ready, for a client that sends one request.
    ``/control``: ``{"size": BYTES}`` resets everything, ``{"ready": true}`` makes every job ready.
    """

    _PATH = "/ai/async-chunking/"
    _ACCEPTED = frozenset({f"Bearer {FIXED_TOKEN}", f"Bearer {TOKEN['access_token']}"})
    _VECTOR = ",".join(f"{0.1 - number / 3000:.9f}" for number in range(384))
    _CHUNK = (
        f'{{"chunks":["A sentence of a document."],"spans":[[0,25]],"vectors":[{{"vector":[{_VECTOR}]}}]}}'
    )

    def __init__(self) -> None:
        self.connections: set[asyncio.StreamWriter] = set()
        self.ready = asyncio.Event()
        self.reset(0)

    def reset(self, size: int) -> None:
        """Reset everything but open connections; ``size`` is that of a result, in bytes."""
        self.ready.set()  # held requests get a 404
        self.ready, self.ready_at = asyncio.Event(), 0.0
        chunks = ",".join([self._CHUNK] * max(1, size // len(self._CHUNK)))
        self.payload = f'"chunkedData":[{chunks}]}}'.encode()
        self.counts: Counter[str] = Counter()
        self.seen: set[str] = set()
        self.returned: set[str] = set()
        self.most_connections = len(self.connections)

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """The counters."""
        if "size" in order:
            self.reset(order["size"])
        if "ready" in order and not self.ready_at:
            self.ready_at = time.time()
            self.ready.set()
        return {
            "requests": self.counts["requests"],
            "unauthorized": self.counts["unauthorized"],
            "repeated": self.counts["repeated"],
            "seen": len(self.seen),
            "returned": len(self.returned),
            "ready_at": self.ready_at,
            "most_connections": self.most_connections,
        }

    def closed(self, connection: asyncio.StreamWriter) -> None:
        """Count it no more."""
        self.connections.discard(connection)

    async def respond(self, request: Request) -> tuple[int, bytes] | None:
        """Status or result of a job. A connection counts from its first poll on."""
        if request.method == "HEAD" or self._PATH not in request.path:
            return 404, b""
        self.connections.add(request.connection)
        self.most_connections = max(self.most_connections, len(self.connections))
        if request.headers.get("authorization") not in self._ACCEPTED:
            self.counts["unauthorized"] += 1
            return 401, _json({"message": "no such token"})
        prefix, _, job_id = request.path.partition(self._PATH)
        self.counts["requests"] += 1
        self.seen.add(job_id)
        if prefix == "/held":
            ready = self.ready
            await ready.wait()
            if ready is not self.ready:
                return 404, b""
        if not self.ready_at:
            return 404 if prefix == "/missing" else 200, _json({"chunkingId": job_id, "status": "SUBMITTED"})
        if job_id in self.returned:
            self.counts["repeated"] += 1
            return 200, _json({"chunkingId": job_id, "status": "RETRIEVED"})
        self.returned.add(job_id)
        return 200, _json({"chunkingId": job_id, "status": "READY"})[:-1] + b"," + self.payload


async def main(name: str, *arguments: str) -> None:
    """Serve until the standard input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    service = {"embeddings": Embeddings, "vectors": Vectors, "jobs": Jobs}[name](*arguments)
    server = await asyncio.start_server(service.connected, "127.0.0.1", 0, backlog=2000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
