# SPDX-License-Identifier: Apache-2.0
"""
The routes of the emulator: all three vendor hosts at one base URL.

To add a vendor endpoint: give it a name in :class:`.faults.EndpointName`, write its coroutine in the module
of its family (``chunking.py``, ``predictions.py``, ``models_api.py``), and list it here with the scope it needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.routing import Route

from lucidworks_provider.emulator import chunking, control, models_api, predictions
from lucidworks_provider.emulator.calls import Endpoint, Handler
from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.faults import EndpointName
from lucidworks_provider.emulator.settings import EmulatorSettings
from lucidworks_provider.emulator.state import EmulatorState, LogRecord
from lucidworks_provider.emulator.tokens import Scope, issue_token

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response


_CHUNKING, _PREDICTION = "/ai/async-chunking", "/ai/async-prediction"
_MODELS, _DEPLOYMENTS = "/customers/{customer_id}/ai/models", "/customers/{customer_id}/ai/deployments"
_MODEL, _DEPLOYMENT = f"{_MODELS}/{{model_id}}", f"{_DEPLOYMENTS}/{{deployment_id}}"

# By the scope of the token that a host requires.
_ENDPOINTS: dict[Scope | None, list[tuple[str, str, EndpointName, Handler]]] = {
    None: [
        ("POST", "/oauth2/{auth}/v1/token", EndpointName.TOKEN, issue_token),
    ],
    Scope.PREDICT: [
        ("GET", "/ai/usecases", EndpointName.USE_CASES, predictions.list_use_cases),
        ("GET", "/ai/usecase", EndpointName.USE_CASES, predictions.list_use_cases),
        ("POST", "/ai/prediction/{use_case}/{model_id}", EndpointName.PREDICT, predictions.predict),
        ("POST", f"{_PREDICTION}/{{use_case}}/{{model_id}}", EndpointName.SUBMIT_PREDICTION, predictions.submit),
        ("GET", f"{_PREDICTION}/{{prediction_id}}", EndpointName.POLL_PREDICTION, predictions.fetch),
        ("POST", f"{_CHUNKING}/{{chunker}}/{{model_id}}", EndpointName.SUBMIT, chunking.submit),
        ("GET", f"{_CHUNKING}/{{chunking_id}}", EndpointName.POLL, chunking.fetch),
        ("POST", "/ai/tokenization/{model_id}", EndpointName.TOKENIZE, predictions.tokenize),
        ("POST", "/ai/prompt/passthrough/{model_id}", EndpointName.PREVIEW_PROMPT, predictions.preview_prompt),
    ],
    Scope.MODEL: [
        ("GET", _MODELS, EndpointName.LIST_MODELS, models_api.list_models),
        ("POST", _MODELS, EndpointName.CREATE_MODEL, models_api.create_model),
        ("GET", _MODEL, EndpointName.GET_MODEL, models_api.get_model),
        ("GET", f"{_MODEL}/deployments", EndpointName.LIST_MODEL_DEPLOYMENTS, models_api.list_model_deployments),
        ("GET", _DEPLOYMENTS, EndpointName.LIST_DEPLOYMENTS, models_api.list_deployments),
        ("POST", _DEPLOYMENTS, EndpointName.DEPLOY, models_api.deploy),
        ("DELETE", _DEPLOYMENTS, EndpointName.UNDEPLOY, models_api.undeploy),
        ("DELETE", _DEPLOYMENT, EndpointName.UNDEPLOY, models_api.undeploy),
    ],
}  # fmt: skip


def create_app(settings: EmulatorSettings | None = None) -> Starlette:
    """Build an emulator; its memory is ``app.state.emulator``."""
    routes = [
        Route(path, Endpoint(name, handler, scope), methods=[method])
        for scope, endpoints in _ENDPOINTS.items()
        for method, path, name, handler in endpoints
    ]
    app = Starlette(routes=[*routes, *control.ROUTES], exception_handlers={HTTPException: _unrouted})
    app.router.redirect_slashes = False
    app.state.emulator = EmulatorState(settings or EmulatorSettings())
    return app


async def _unrouted(request: Request, error: Exception) -> Response:
    """Refuse and log what no endpoint serves: a wrong path is a client's error worth seeing in the log."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    state: EmulatorState = request.app.state.emulator
    state.log.add(LogRecord(state.clock(), request.method, request.url.path, status=status))
    return ApiError(status, "There is no such endpoint.").response()
