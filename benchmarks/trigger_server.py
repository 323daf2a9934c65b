# SPDX-License-Identifier: Apache-2.0
"""
The server of :mod:`benchmarks.triggers`: jobs that are all pending until somebody says that they are ready.

A process of its own, on asyncio alone: it has to serve a thousand waiting triggers, hold a thousand connections open
and send bodies of twelve megabytes without being what is measured. It shares no code with the client. The shapes are
the documented ones; a result is handed out once, as the service does it.

=================================  ============================================================================
``POST /oauth2/*/v1/token``        a token
``GET /ai/async-chunking/ID``      ``SUBMITTED``; once ready the result, and from then on ``RETRIEVED``
``GET /missing/ai/…/ID``           404 until ready, for a client that takes any other response for the end
``GET /held/ai/…/ID``              no response until ready, for a client that asks once
``POST /control``                  ``{"size": BYTES}`` starts anew, ``{"ready": true}`` makes every job ready
``GET /control``                   what was counted
=================================  ============================================================================

``python -m benchmarks.trigger_server`` prints its port and ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

# Of clients that bring their own token, since they can ask for none.
FIXED_TOKEN = "a-token-for-clients-without-one"  # noqa: S105
_ISSUED_TOKEN = "a-token-for-everybody-else"  # noqa: S105
_KNOWN = {f"Bearer {FIXED_TOKEN}", f"Bearer {_ISSUED_TOKEN}"}
_JOBS = "/ai/async-chunking/"
# Of a large body at once, so that the copies of a sending server do not fill the memory of the machine.
_PIECE = 256 * 1024
_REASONS = {200: "OK", 401: "Unauthorized", 404: "Not Found"}
_VECTOR = ",".join(f"{0.1 - number / 3000:.9f}" for number in range(384))
_CHUNK = f'{{"chunks":["A sentence of a document."],"spans":[[0,25]],"vectors":[{{"vector":[{_VECTOR}]}}]}}'


@dataclass
class Jobs:
    """
    What the server knows.

    :param ready_at: seconds since the epoch.
    :param payload: everything of a result that is the same for all jobs.
    """

    payload: bytes = b""
    ready_at: float | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    counts: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    handed_out: set[str] = field(default_factory=set)
    connections: int = 0
    most_connections: int = 0

    def start_anew(self, size: int) -> None:
        """Forget everything but the connections that are open."""
        # Who is still held has gone, or gets a 404.
        self.ready.set()
        self.payload = b'"chunkedData":[' + ",".join([_CHUNK] * max(1, size // len(_CHUNK))).encode() + b"]}"
        self.ready_at, self.ready = None, asyncio.Event()
        self.counts, self.seen, self.handed_out = Counter(), set(), set()
        self.most_connections = self.connections

    def control(self, order: dict[str, Any]) -> dict[str, Any]:
        """Obey, and tell what was counted."""
        if "size" in order:
            self.start_anew(order["size"])
        if "ready" in order and self.ready_at is None:
            self.ready_at = time.time()
            self.ready.set()
        return {
            "requests": self.counts["requests"],
            "refused": self.counts["refused"],
            "tokens": self.counts["tokens"],
            "again": self.counts["again"],
            "jobs_seen": len(self.seen),
            "handed_out": len(self.handed_out),
            "ready_at": self.ready_at,
            "connections": self.connections,
            "most_connections": self.most_connections,
        }

    async def job(self, path: str) -> tuple[int, bytes]:
        """The response to a GET of a job."""
        way, _, job_id = path.partition(_JOBS)
        self.counts["requests"] += 1
        self.seen.add(job_id)
        if way == "/held":
            held_for = self.ready
            await held_for.wait()
            if held_for is not self.ready:
                return 404, b""
        if self.ready_at is None:
            return 404 if way == "/missing" else 200, _json({"chunkingId": job_id, "status": "SUBMITTED"})
        if job_id in self.handed_out:
            self.counts["again"] += 1
            return 200, _json({"chunkingId": job_id, "status": "RETRIEVED"})
        self.handed_out.add(job_id)
        return 200, _json({"chunkingId": job_id, "status": "READY"})[:-1] + b"," + self.payload

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve the requests of a connection; it counts from its first question about a job on."""
        counted = False
        try:
            while request := await _read(reader):
                method, path, headers, body = request
                if path.startswith("/control"):
                    status, content = 200, _json(self.control(json.loads(body or b"{}")))
                elif path.startswith("/oauth2/"):
                    self.counts["tokens"] += 1
                    grant = {"access_token": _ISSUED_TOKEN, "token_type": "Bearer", "expires_in": 3600}
                    status, content = 200, _json(grant)
                elif method == "HEAD" or _JOBS not in path:
                    status, content = 404, b""
                else:
                    if not counted:
                        counted = True
                        self.connections += 1
                        self.most_connections = max(self.most_connections, self.connections)
                    if headers.get("authorization") in _KNOWN:
                        status, content = await self.job(path)
                    else:
                        self.counts["refused"] += 1
                        status, content = 401, _json({"message": "no such token"})
                await _write(writer, status, content)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= counted
            writer.close()


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str], bytes] | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.rstrip().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return method, target.partition("?")[0], headers, body


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


async def serve() -> None:
    """Serve until the standard input ends, with whoever started this."""
    jobs = Jobs()
    jobs.start_anew(0)
    server = await asyncio.start_server(jobs.connected, "127.0.0.1", 0, backlog=2000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    """Entry point."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    asyncio.run(serve())


if __name__ == "__main__":
    main()
