# SPDX-License-Identifier: Apache-2.0
"""Recorders in front of one emulator, and checks of the recorded exchanges against the OpenAPI document."""

import copy
import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import yaml
from openapi_core import Config, OpenAPI
from openapi_core.datatypes import RequestParameters
from werkzeug.datastructures import Headers, ImmutableMultiDict

DOCUMENT = Path(__file__).with_name("lucidworks-ai-openapi.yaml")
IDENTITY = "https://identity.lucidworks.com"
APPLICATION = "https://APPLICATION_ID.applications.lucidworks.com"
MODELS = "https://api.lucidworks.com"

# Which schema of the document speaks about a chunker's configuration; its `anyOf` leaves that open.
CONFIGS = {
    "dynamic-newline": "DynamicNewlineChunkerConfig",
    "dynamic-sentence": "DynamicSentenceChunkerConfig",
    "regex-splitter": "RegexSplitterChunkerConfig",
    "semantic": "SemanticChunkerConfig",
    "sentence": "SentenceChunkerConfig",
}
# What a client may send has no other fields than these schemas and the requests of predictions name.
_CLOSED = (
    *("ChunkingRequest", "BatchText", "RagDocument", "GenModelConfig", "EmbeddingModelConfig"),
    *("EmbeddingUseCaseConfig", *CONFIGS.values()),
)


@dataclass
class Exchange:
    """One request and its answer as they were on the wire; it is what openapi-core takes for either."""

    host_url: str
    verb: str
    target: str
    request_headers: list[tuple[str, str]]
    body: bytes
    status_code: int = 0
    headers: Headers = field(default_factory=Headers)
    data: bytes = b""

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def method(self) -> str:
        return self.verb.lower()

    @property
    def parameters(self) -> RequestParameters:
        if "_parameters" not in self.__dict__:
            self.__dict__["_parameters"] = RequestParameters(
                query=ImmutableMultiDict(self.query), header=Headers(self.request_headers)
            )
        return self.__dict__["_parameters"]

    @property
    def content_type(self) -> str:
        # The protocols for requests and answers share this name, so an answer is checked through a view.
        return self.header("Content-Type") or ""

    def header(self, name: str) -> str | None:
        """The one value of a request header, or None; twice is an error."""
        found = [value for key, value in self.request_headers if key.lower() == name.lower()]
        assert len(found) < 2, f"{name} was sent {len(found)} times"
        return found[0] if found else None


@dataclass
class _AnswerView:
    exchange: Exchange

    @property
    def status_code(self) -> int:
        return self.exchange.status_code

    @property
    def headers(self) -> Headers:
        return self.exchange.headers

    @property
    def data(self) -> bytes:
        return self.exchange.data

    @property
    def content_type(self) -> str:
        return self.exchange.headers.get("Content-Type", "")


@cache
def document() -> dict[str, Any]:
    """The vendor's OpenAPI document."""
    read: dict[str, Any] = yaml.load(DOCUMENT.read_text(), yaml.CSafeLoader)
    return read


class _Judge:
    def __init__(self) -> None:
        self.answers = OpenAPI.from_dict(document())
        # A client may send nothing that the document does not know, so the schemas of requests are closed, and
        # each chunker and each asynchronous use case gets a path of its own with its own body.
        strict = copy.deepcopy(document())
        schemas, paths = strict["components"]["schemas"], strict["paths"]
        for name in schemas:
            if name.endswith("Request") or name in _CLOSED:
                _close(schemas[name])
        for name in _CLOSED:
            schemas[name]["additionalProperties"] = False
        chunking = paths.pop("/ai/async-chunking/{CHUNKER}/{MODEL_ID}")
        for chunker, schema in CONFIGS.items():
            own = copy.deepcopy(schemas["ChunkingRequest"])
            own["properties"]["chunkerConfig"] = {"$ref": f"#/components/schemas/{schema}"}
            body = {"required": True, "content": {"application/json": {"schema": own}}}
            paths[f"/ai/async-chunking/{chunker}/{{MODEL_ID}}"] = _with_body(chunking, chunker, body)
        prediction = paths.pop("/ai/async-prediction/{USE_CASE}/{MODEL_ID}")
        prefix = "/ai/prediction/"
        for path in [path for path in paths if path.startswith(prefix)]:
            use_case = path.removeprefix(prefix).partition("/")[0]
            if use_case not in {"{USE_CASE}", "embedding"}:  # which have no asynchronous page
                own = _with_body(prediction, use_case, paths[path]["post"]["requestBody"])
                paths[path.replace(prefix, "/ai/async-prediction/")] = own
        self.requests = OpenAPI.from_dict(strict, config=Config(spec_validator_cls=None))

    def request(self, exchange: Exchange) -> None:
        """Raise unless the document allows the request, as it is and with its schemas closed."""
        self.answers.validate_request(exchange)
        self.requests.validate_request(exchange)

    def answer(self, exchange: Exchange) -> None:
        """Raise unless the document has this answer to this request."""
        self.answers.validate_response(exchange, _AnswerView(exchange))


def _close(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("additionalProperties") is True:
            schema["additionalProperties"] = False
        for inner in schema.values():
            _close(inner)


def _with_body(generic: Any, name: str, body: Any) -> Any:
    """One value of the first parameter of a path, as a path of its own."""
    one = copy.deepcopy(generic)
    del one["post"]["parameters"][0]
    one["post"]["operationId"] += f"-{name}"
    one["post"]["requestBody"] = body
    return one


@cache
def judge() -> _Judge:
    """The document, read once."""
    return _Judge()


@dataclass(frozen=True)
class Recorders:
    """Addresses in place of the vendor's hosts, and the exchanges that they recorded."""

    identity: str
    application: str
    models: str
    seen: list[Exchange]

    def of(self, verb: str, part: str) -> list[Exchange]:
        """The exchanges with a method and a part of the path."""
        return [one for one in self.seen if one.verb == verb and part in one.path]


@contextmanager
def recording(upstream: str) -> Iterator[Recorders]:
    """Pass requests on to an emulator and keep both directions."""
    seen: list[Exchange] = []
    with (
        _recorder(upstream, IDENTITY, seen) as identity,
        _recorder(upstream, APPLICATION, seen) as application,
        _recorder(upstream, MODELS, seen) as models,
    ):
        yield Recorders(identity, application, models, seen)


@contextmanager
def _recorder(upstream: str, host_url: str, seen: list[Exchange]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one segment per answer
        disable_nagle_algorithm = True

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            exchange = Exchange(host_url, self.command, self.path, self.headers.items(), body)
            seen.append(exchange)
            connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=20)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in exchange.request_headers:
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            exchange.data = answer.read()
            exchange.status_code, exchange.headers = answer.status, Headers(answer.getheaders())
            connection.close()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(exchange.data)

        do_GET = do_POST = do_DELETE = _pass_on

        def log_message(self, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
