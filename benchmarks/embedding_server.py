# SPDX-License-Identifier: Apache-2.0
"""
A service of embeddings that speaks three dialects, for ``benchmarks.side_by_side``: a process of its own.

A response takes ``REQUEST_SECONDS``, and ``INPUT_SECONDS`` for each input; its vectors are written once and
for all. ``POST /control`` sets the counters back, and can let one response get lost: that in which the given input
would come, after the work was done. ``GET /control`` tells what was asked.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REQUEST_SECONDS, INPUT_SECONDS = 0.01, 0.00125
VECTOR = json.dumps([round(0.001 * number, 3) for number in range(384)])


class Service:
    """What was asked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset(0)

    def reset(self, losing: int) -> None:
        """:param losing: the input whose response gets lost, once; 0 for none."""
        with self._lock:
            self.requests = self.inputs = 0
            self._losing = losing

    def asked(self, inputs: int) -> bool:
        """Count; whether this response arrives."""
        with self._lock:
            self.requests += 1
            self.inputs += inputs
            if not self._losing or self.inputs < self._losing:
                return True
            self._losing = 0
            return False


SERVICE = Service()


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """A response is two writes, which must not wait for each other."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """The counters."""
        self._say({"requests": SERVICE.requests, "inputs": SERVICE.inputs})

    def do_POST(self) -> None:
        """A token, an order, or vectors."""
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/control":
            SERVICE.reset(json.loads(body)["losing"])
            self._say({})
        elif "/token" in self.path:
            scope = "machinelearning.predict"
            self._say({"access_token": "a.b.c", "token_type": "Bearer", "expires_in": 3600, "scope": scope})
        else:
            self._embed(json.loads(body))

    def _embed(self, asked: dict[str, Any]) -> None:
        if self.path.startswith("/ai/"):
            inputs, one = len(asked["batch"]), f'{{"tokensUsed": 7, "vector": {VECTOR}}}'
            begin, end = '{"generatedTokens": [], "predictions": [', "]}"
        elif self.path.startswith("/v2/"):
            inputs, one = len(asked["texts"]), VECTOR
            begin = (
                '{"id": "1", "texts": [], "response_type": "embeddings_by_type", "embeddings": {"float": ['
            )
            end = "]}}"
        else:
            inputs, one = len(asked["input"]), f'{{"object": "embedding", "index": 0, "embedding": {VECTOR}}}'
            begin = (
                '{"object": "list", "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}, "data": ['
            )
            end = "]}"
        time.sleep(REQUEST_SECONDS + INPUT_SECONDS * inputs)
        if SERVICE.asked(inputs):
            self._send((begin + ", ".join([one] * inputs) + end).encode())
        else:
            self.close_connection = True

    def _say(self, said: dict[str, Any]) -> None:
        self._send(json.dumps(said).encode())

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve; the port is the first line."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    sys.stdout.write(f"{server.server_address[1]}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
