# SPDX-License-Identifier: Apache-2.0
"""A body that is decoded in pieces has the value that it has as a whole, whatever its serializer."""

import json
import random
import sys
import threading
import time
from array import array
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lucidworks_provider.client.chunking import read_result
from lucidworks_provider.client.http import messages as http
from lucidworks_provider.client.http.large_json import WithoutVectors
from lucidworks_provider.client.http.messages import parse_json


def in_pieces(body: bytes, *, packed: bool = False) -> Any:
    with patch.object(http, "LARGE_BODY", -1):
        return parse_json(body, packed=packed)


def as_a_whole(body: bytes) -> Any:
    with patch.object(http, "LARGE_BODY", sys.maxsize):
        return parse_json(body)


def told(value: Any, *, floats: bool = False) -> str:
    """
    As a text, since ``1 == 1.0 == True``.

    :param floats: let whole numbers be floats; those beyond 64 bits are anyhow, in one way of decoding.
    """

    def plain(one: Any) -> Any:
        if isinstance(one, dict):
            return {name: plain(inner) for name, inner in one.items()}
        if isinstance(one, list | array):
            return [plain(inner) for inner in one]
        return float(one) if type(one) is int and (floats or abs(one) >= 2**63) else one

    return repr(plain(value))


SPACE = st.sampled_from(["", "", "", " ", "\n", "\t \r\n"])
# Words that look like the key, like the text after it, or like the end of something.
WORDS = [
    *('"vector": [1,2]', '"vector":[', "vector", "\\", '"', "]", "[1]", '\\"vector": [1]', "ä🐄", ":"),
    *("\u2028", ""),
]
NUMBERS = st.one_of(
    st.integers(-300, 300).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["-0", "0.0", "1E5", "1e-7", "-12.50", "18446744073709551615"]),
)
ODD_NUMBERS = [
    *("NaN", "1e999", "01", "1.", ".5", "+1", "--1", "1" * 30, "true", "null", '"1"', "{}", "[]", "Infinity"),
]


@st.composite
def texts(draw: st.DrawFn) -> str:
    text = "".join(draw(st.lists(st.sampled_from(WORDS), max_size=3)))
    written = json.dumps(text, ensure_ascii=draw(st.booleans()))
    # Some encoders escape what need not be.
    return written.replace("v", "\\u0076") if draw(st.integers(0, 4)) == 0 else written


@st.composite
def vectors(draw: st.DrawFn) -> str:
    numbers = st.one_of(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.sampled_from(ODD_NUMBERS))
    parts = [draw(SPACE) + one + draw(SPACE) for one in draw(st.lists(numbers, max_size=4))]
    return "[" + ",".join(parts) + "]"


@st.composite
def values(draw: st.DrawFn, depth: int = 3) -> str:
    def spaced(text: str) -> str:
        return draw(SPACE) + text + draw(SPACE)

    kind = draw(st.integers(0, 5 if depth else 2))
    if kind == 0:
        return draw(texts())
    if kind == 1:
        return draw(NUMBERS | st.sampled_from(["true", "false", "null"]))
    if kind == 2:
        return draw(vectors())
    if kind == 3:
        return "[" + ",".join(spaced(draw(values(depth - 1))) for _ in range(draw(st.integers(0, 3)))) + "]"
    members = []
    for _ in range(draw(st.integers(0, 4))):
        # The same name twice, too.
        name = draw(
            st.sampled_from(['"vector"', '"vector"', '"vectors"', '"a\\"vector"', '"\\u0076ector"']) | texts()
        )
        value = draw(vectors()) if draw(st.booleans()) else draw(values(depth - 1))
        members.append(spaced(name) + ":" + spaced(value))
    return "{" + ",".join(members) + "}"


@given(text=values())
@example(text='{"vector": [1], "vector": [2]}')
@example(text='{"vector": [1], "\\u0076ector": "x"}')
@example(text='{"a\\"vector": [1, 2]}')
@example(text='{"a\\\\": 1, "vector": [1, 2]}')
@example(text='{"text": "\\"vector\\": [1, 2]", "vector": [1, 2]}')
@example(text='[{"vector": [{"vector": [1, 2]}, {"vector": [[3], [4]]}]}]')
@example(text='{"vector": [1, {"vector": [2]}], "vector": [1, "]"]}')
def test_the_pieces_say_what_the_whole_says(text: str) -> None:
    body = text.encode()
    assert told(in_pieces(body)) == told(as_a_whole(body))
    assert told(in_pieces(body, packed=True), floats=True) == told(as_a_whole(body), floats=True)


@given(text=values(), data=st.data())
def test_what_is_no_json_is_none_in_pieces_either(text: str, data: st.DataObject) -> None:
    body = bytearray(text.encode())
    pieces = st.sampled_from([b"", b'"', b"\\", b"]", b"[", b",", b":", b"}", b"1", b'"vector":[1]', b"\xff"])
    for _ in range(data.draw(st.integers(1, 3))):
        at, new = data.draw(st.integers(0, len(body))), data.draw(pieces)
        body[at : at + data.draw(st.integers(0, 2))] = new
    assert told(in_pieces(bytes(body))) == told(as_a_whole(bytes(body)))


@pytest.mark.parametrize(
    ("body", "pieces"),
    [
        (b'{"vector":[1,2]}', 1),
        (b'{"vector" : [\n 1,\n 2 ] , "vector":\t[-1.5e-3]}', 2),
        (b'[{"vector": [1]}, {"vector": [2, NaN]}, {"vector": [3, 4]}]', 3),
        (b'[{"vector": [1]}, {"vector": [2, 01]}, {"vector": [3, 4]}]', 2),
        (b'{"vector": [{"vector": [1]}]}', 1),
        (b'{"a\\"vector": [1]}', 0),
        (b'{"vector": ["1"]}', 0),
        (b'{"vector": [1, "]"]}', 0),
        (b'{"vector": [[1]], "vector": [], "vector": 1, "vectors": [1]}', 0),
        (b'{"vector": [1', 0),
    ],
)
def test_only_arrays_that_begin_with_a_number_are_cut_out(body: bytes, pieces: int) -> None:
    assert len(WithoutVectors(body, json.loads).vectors) == pieces


@pytest.mark.parametrize(
    ("vector", "packed"),
    [
        (b"[1.5, -2, 1e-7]", array("d", [1.5, -2.0, 1e-7])),
        (b"[1, -128, 255]", array("q", [1, -128, 255])),
        (b"[1e5, 2]", array("d", [1e5, 2.0])),
        (b"[1, 111111111111111111111]", array("d", [1.0, 111111111111111111111])),
        (b"[1.5, true]", [1.5, True]),
        (b"[1, false]", [1, False]),
        (b"[1, null]", [1, None]),
        (b"[1.5, null]", [1.5, None]),
        (b"[1.5, {}]", [1.5, {}]),
    ],
)
def test_numbers_become_arrays_and_nothing_else_does(vector: bytes, packed: object) -> None:
    found = in_pieces(b'{"vector": ' + vector + b"}", packed=True)["vector"]
    assert (type(found), found) == (type(packed), packed)


def test_without_orjson_there_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "orjson", None)
    assert in_pieces(b'{"vector": [1.5, 2]}', packed=True) == {"vector": [1.5, 2]}
    assert in_pieces(b'{"vector": [1.5, 1e999]}', packed=True) == {"vector": [1.5, None]}


@pytest.mark.parametrize(
    "body",
    [
        b'"vector":[1,' * 100_000,
        b'{"vector":[1,' * 100_000 + b"]",
        b'"vector":[' + b"1," * 2_000_000,
        b'\\"vector":[1]' * 100_000,
        b'{"vector":' + b" " * 2_000_000 + b'"vector":[',
        b'"vector":[1 ,]' * 100_000,
    ],
)
def test_a_body_that_is_made_to_take_long_takes_as_long_as_any(body: bytes) -> None:
    begin = time.process_time()
    assert in_pieces(body) is None
    assert time.process_time() - begin < 5


def large_body(chunks: int, dimension: int) -> bytes:
    rng = random.Random(1)
    texts = [f"Chunk {n}." for n in range(chunks)]
    vectors = [
        {"tokensUsed": {"inputTokens": 3}, "vector": [rng.uniform(-1, 1) for _ in range(dimension)]}
        for _ in range(chunks)
    ]
    item = {"chunks": texts, "spans": [[0, 1]] * chunks, "vectors": vectors}
    return json.dumps({"chunkingId": "j", "status": "READY", "chunkedData": [item]}).encode()


def test_a_large_result_is_read_the_same_packed_or_not() -> None:
    body = large_body(60, 384)
    lists, arrays = (read_result(parse_json(body, packed=packed), "j").chunks for packed in (False, True))
    assert all(type(chunk.vector) is list for chunk in lists)
    assert all(type(chunk.vector) is array for chunk in arrays)
    assert [(c.text, c.span, list(c.vector), c.input_tokens) for c in arrays] == [
        (c.text, c.span, c.vector, c.input_tokens) for c in lists
    ]


def longest_wait(decode: Callable[[], object]) -> float:
    """The longest time for which another thread is blocked."""
    worst, over = 0.0, threading.Event()

    def heartbeat() -> None:
        nonlocal worst
        last = time.perf_counter()
        while not over.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            worst, last = max(worst, now - last), now

    watcher = threading.Thread(target=heartbeat)
    watcher.start()
    decode()
    over.set()
    watcher.join()
    return worst


def test_others_continue_while_a_large_result_is_decoded() -> None:
    body = large_body(1500, 384)
    # The best of five, since other processes may have the processor.
    pieces = min(longest_wait(lambda: parse_json(body, packed=True)) for _ in range(5))
    whole = min(longest_wait(lambda: as_a_whole(body)) for _ in range(5))
    assert pieces < min(0.05, whole)
