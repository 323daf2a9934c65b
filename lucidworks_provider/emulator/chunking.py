# SPDX-License-Identifier: Apache-2.0
"""``/ai/async-chunking``: requests, results in both published shapes, submit and fetch (section 7)."""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from lucidworks_provider.emulator import chunkers
from lucidworks_provider.emulator.calls import Call
from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.jobs import JobFailure, JobKind, JobResult, accept, poll
from lucidworks_provider.emulator.models import max_chunks
from lucidworks_provider.emulator.rules import (
    Default,
    InvalidValue,
    Rule,
    boolean,
    integer,
    number,
    required,
    text,
)
from lucidworks_provider.emulator.sentences import Span
from lucidworks_provider.emulator.vectors import VectorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.responses import Response


def _pattern(name: str, value: Any) -> str:
    try:
        re.compile(text(name, value))
    except (re.error, RecursionError, OverflowError):
        raise InvalidValue(f"{name}: not a valid regular expression.") from None
    return str(value)


_SIZE, _OVERLAP = Default(integer(1), 512), Default(integer(0), 0)
# The function of each chunker, and the rules of its ``chunkerConfig`` in the order of the function's parameters.
_CHUNKERS: Mapping[str, tuple[Callable[..., Iterator[Span]], Mapping[str, Rule | Default]]] = {
    "dynamic-newline": (chunkers.dynamic_newline, {"maxChunkSize": _SIZE}),
    "dynamic-sentence": (chunkers.dynamic_sentence, {"maxChunkSize": _SIZE, "overlapSize": _OVERLAP}),
    "regex-splitter": (chunkers.regex_splitter, {"regex": Default(_pattern, "\n")}),
    "semantic": (
        chunkers.semantic,
        {
            "maxChunkSize": _SIZE,
            "overlapSize": _OVERLAP,
            "cosineThreshold": Default(number(-1, 1), chunkers.COSINE_THRESHOLD),
            "approximate": Default(boolean, False),
        },
    ),
    "sentence": (chunkers.sentence, {"chunkSize": Default(integer(1), 5), "overlapSize": _OVERLAP}),
}


_LARGEST_OUTPUT = 64_000_000


class ChunkedItem(NamedTuple):
    """One element of ``chunkedData``, as pieces of JSON."""

    chunks: str
    spans: str
    vectors: list[str]


def _payload(items: list[ChunkedItem], legacy: bool) -> str:
    """Write the newest shape or, as one older example has it, the vectors beside ``chunkedData``."""
    if legacy:
        data = ",".join(f'{{"chunks":{item.chunks}}}' for item in items)
        return f'"chunkedData":[{data}],"vector":[{",".join(vector for item in items for vector in item.vectors)}]'
    data = ",".join(
        f'{{"chunks":{item.chunks},"spans":{item.spans},"vectors":[{",".join(item.vectors)}]}}'
        for item in items
    )
    return f'"chunkedData":[{data}]'


def compute(
    texts: list[str],
    chunk: Callable[[str], Iterator[Span]],
    vectors: VectorOptions,
    *,
    overflow_is_error: bool,
) -> JobResult:
    """
    Chunk and embed every text of a request, up to the number of chunks of section 7.5 in total.

    Slow, so it runs in a worker thread. Each vector becomes JSON on its own: one call over a whole result would hold
    the GIL for a second and block the event loop.
    """
    room = max_chunks(vectors.dimension, quantized=vectors.quantization is not None)
    items: list[ChunkedItem] = []
    characters = 0
    for whole in texts:
        spans = list(islice(chunk(whole), room + 1))
        if len(spans) > room:
            if overflow_is_error:
                raise JobFailure("The text gives more chunks than one request may return.")
            spans = spans[:room]
        room -= len(spans)
        characters += sum(end - start for start, end in spans)
        if characters > _LARGEST_OUTPUT:  # a huge overlap repeats the text in each chunk
            raise JobFailure("The chunks are too large to be returned.")
        items.append(
            ChunkedItem(
                chunks=_dump([whole[start:end] for start, end in spans]),
                spans=_dump(spans),
                vectors=[vectors.to_json(whole[start:end]) for start, end in spans],
            )
        )
    return partial(_payload, items)


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def submit(call: Call) -> Response:
    segment, model_id = call.request.path_params["chunker"], call.request.path_params["model_id"]
    call.record.chunker, call.record.model = segment, model_id
    chunker = call.segment(segment)
    if chunker not in _CHUNKERS:
        raise ApiError(404, "There is no such chunker.")
    model = call.embedding_model(model_id)
    chunk, config_rules = _CHUNKERS[chunker]
    rules = {"batch": required([{"text": required(text)}]), "chunkerConfig": Default(config_rules, {})}
    body = await call.body({**rules, **VectorOptions.rules(model)})
    config = body["chunkerConfig"]
    # [A]: such chunks would never advance.
    if "chunkSize" in config and config["overlapSize"] >= config["chunkSize"]:
        raise InvalidValue("chunkerConfig.overlapSize: less than chunkSize is required.")
    texts = [item["text"] for item in call.batch(body)]
    # The limit is about 1 MB of text. That the whole body counts is the strictest reading [A].
    if len(await call.request.body()) > call.settings.max_body_bytes:
        too_large = f"The request is larger than {call.settings.max_body_bytes} bytes."
        if call.settings.oversize != "error-job":
            raise ApiError(int(call.settings.oversize), too_large)
        return accept(call, JobKind.CHUNKING, None, error=too_large)
    work = call.state.workers.submit(
        compute,
        texts,
        lambda text: chunk(text, *config.values()),
        VectorOptions.of(body, model),
        overflow_is_error=call.settings.chunk_overflow == "error",
    )
    return accept(call, JobKind.CHUNKING, work)


async def fetch(call: Call) -> Response:
    return await poll(call, JobKind.CHUNKING, call.request.path_params["chunking_id"])
