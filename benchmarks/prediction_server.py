# SPDX-License-Identifier: Apache-2.0
"""
A service of embeddings without latency, for ``benchmarks.prediction_table``: a process of its own.

A response has as many vectors as the request has inputs, and is made once for each number, so that two cores are
enough for client and service. ``GET /`` returns the number of inputs and how often the most frequent one was sent.

``python -m benchmarks.prediction_server DIMENSION``; the port is the first line.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
from collections import Counter
from functools import lru_cache

TOKEN = {
    "access_token": "a.b.c",
    "token_type": "Bearer",
    "expires_in": 36_000,
    "scope": "machinelearning.predict",
}
_TEXT = re.compile(rb'"text": ?"row (\d+)')
SEEN: Counter[bytes] = Counter()


@lru_cache
def response(inputs: int, dimension: int) -> bytes:
    """Vectors as the emulator writes them."""
    numbers = random.Random(inputs)
    predictions = [
        {
            "tokensUsed": {"inputTokens": 50},
            "vector": [round(numbers.uniform(-0.1, 0.1), 8) for _ in range(dimension)],
        }
        for _ in range(inputs)
    ]
    return json.dumps({"generatedTokens": [], "predictions": predictions}).encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, kept alive."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            body = await reader.readexactly(int(found[1])) if found else b""
            if b"/ai/" in head:
                rows = _TEXT.findall(body)
                SEEN.update(rows)
                said = response(len(rows), int(sys.argv[1]))
            elif b"/token" in head:
                said = json.dumps(TOKEN).encode()
            else:
                said = json.dumps({"inputs": SEEN.total(), "different": len(SEEN)}).encode()
                if b"POST" in head:
                    SEEN.clear()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(said)
            )
            writer.write(said)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    """Serve."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
