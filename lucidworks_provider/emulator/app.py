# SPDX-License-Identifier: Apache-2.0
"""
The routes of the emulator: all three vendor hosts at one base URL.

To add a vendor endpoint: give it a name in :class:`.faults.EndpointName`, write its coroutine in the module
of its family (``chunking.py``, ``predictions.py``, ``customers.py``), and list it here with the scope it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from lucidworks_provider.emulator import chunking, control, customers, predictions
from lucidworks_provider.emulator.calls import Endpoint, Handler
from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.faults import EndpointName
from lucidworks_provider.emulator.settings import EmulatorSettings
from lucidworks_provider.emulator.state import EmulatorState, LogRecord
from lucidworks_provider.emulator.tokens import Scope, issue_token

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


def _route(
    method: str, path: str, name: EndpointName, handler: Handler, scope: Scope | None = Scope.PREDICT
) -> Route:
    return Route(path, Endpoint(name, handler, scope), methods=[method])


IDENTITY_HOST = [
    _route("POST", "/oauth2/{auth}/v1/token", EndpointName.TOKEN, issue_token, None),
]
_CHUNKING, _PREDICTION = "/ai/async-chunking", "/ai/async-prediction"
APPLICATION_HOST = [
    _route("GET", "/ai/usecases", EndpointName.USE_CASES, predictions.list_use_cases),
    _route("GET", "/ai/usecase", EndpointName.USE_CASES, predictions.list_use_cases),
    _route("POST", "/ai/prediction/{use_case}/{model_id}", EndpointName.PREDICT, predictions.predict),
    _route(
        "POST",
        f"{_PREDICTION}/{{use_case}}/{{model_id}}",
        EndpointName.SUBMIT_PREDICTION,
        predictions.submit,
    ),
    _route("GET", f"{_PREDICTION}/{{prediction_id}}", EndpointName.POLL_PREDICTION, predictions.fetch),
    _route("POST", f"{_CHUNKING}/{{chunker}}/{{model_id}}", EndpointName.SUBMIT, chunking.submit),
    _route("GET", f"{_CHUNKING}/{{chunking_id}}", EndpointName.POLL, chunking.fetch),
    _route("POST", "/ai/tokenization/{model_id}", EndpointName.TOKENIZE, predictions.tokenize),
    _route(
        "POST", "/ai/prompt/passthrough/{model_id}", EndpointName.PREVIEW_PROMPT, predictions.preview_prompt
    ),
]
_MODELS, _DEPLOYMENTS = "/customers/{customer_id}/ai/models", "/customers/{customer_id}/ai/deployments"
MODELS_HOST = [
    _route(method, path, name, handler, Scope.MODEL)
    for method, path, name, handler in (
        ("GET", _MODELS, EndpointName.LIST_MODELS, customers.list_models),
        ("POST", _MODELS, EndpointName.CREATE_MODEL, customers.create_model),
        ("GET", f"{_MODELS}/{{model_id}}", EndpointName.GET_MODEL, customers.get_model),
        (
            "GET",
            f"{_MODELS}/{{model_id}}/deployments",
            EndpointName.LIST_MODEL_DEPLOYMENTS,
            customers.list_model_deployments,
        ),
        ("GET", _DEPLOYMENTS, EndpointName.LIST_DEPLOYMENTS, customers.list_deployments),
        ("POST", _DEPLOYMENTS, EndpointName.DEPLOY, customers.deploy),
        ("DELETE", _DEPLOYMENTS, EndpointName.UNDEPLOY, customers.undeploy_literally),
        ("DELETE", f"{_DEPLOYMENTS}/{{deployment_id}}", EndpointName.UNDEPLOY, customers.undeploy),
    )
]


def create_app(settings: EmulatorSettings | None = None) -> Starlette:
    """Build an emulator; its memory is ``app.state.emulator``."""
    app = Starlette(
        routes=[*IDENTITY_HOST, *APPLICATION_HOST, *MODELS_HOST, *control.ROUTES],
        exception_handlers={HTTPException: _unrouted},
    )
    app.router.redirect_slashes = False
    app.state.emulator = EmulatorState(settings or EmulatorSettings())
    return app


async def _unrouted(request: Request, error: Exception) -> Response:
    """Answer and log what no endpoint serves: a wrong path is a client's error worth seeing in the log."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    state: EmulatorState = request.app.state.emulator
    state.log.add(LogRecord(state.clock(), request.method, request.url.path, status=status))
    return ApiError(status, "There is no such endpoint.").response()
