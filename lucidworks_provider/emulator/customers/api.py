# SPDX-License-Identifier: Apache-2.0
"""
``/customers/{CUSTOMER_ID}/ai/models`` and ``…/deployments`` (section 10).

Scope ``machinelearning.model``. Lists are bare arrays without pages, and every success is a 200, as
documented. A body of a GET or DELETE, which the generated examples show, is ignored.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import ApiError, Call
from lucidworks_provider.emulator.checks import InvalidRequest
from lucidworks_provider.emulator.customers.answers import (
    deployment_json,
    metrics_json,
    model_json,
    redact_in_logs,
    rewrite,
)
from lucidworks_provider.emulator.customers.registry import AVAILABLE, DELETE_FAILED, DELETED
from lucidworks_provider.emulator.customers.requests import parse_deployment, parse_model
from lucidworks_provider.emulator.settings import UndeployPath

if TYPE_CHECKING:
    from lucidworks_provider.emulator.customers.registry import Deployment, Model


async def list_models(call: Call) -> Response:
    """List pre-trained and custom models."""
    _check_customer(call)
    return _answer(call, [_shown(call, one) for one in call.state.registry.models()])


async def create_model(call: Call) -> Response:
    """Create a model and start its training."""
    _check_customer(call)
    order = parse_model(await call.json_body(), ignore_unknown=call.ignore_unknown)
    model = call.state.registry.train(
        order,
        seconds=call.settings.training_seconds,
        fails=call.settings.training_fails,
        created_by=call.record.client_id,
    )
    call.record.model = model.model_id
    return _answer(call, _shown(call, model))


async def get_model(call: Call) -> Response:
    """Show a model; the shape of the metrics is not documented [A]."""
    model = _model(call)
    metrics = call.request.query_params.get("metrics", "false")
    if metrics not in {"true", "false"}:
        raise InvalidRequest("metrics: true or false is required.")
    shown = _shown(call, model)
    if metrics == "true":
        shown["metrics"] = metrics_json(model, call.state.clock())
    return _answer(call, shown)


async def list_model_deployments(call: Call) -> Response:
    """List the deployments of a model."""
    model = _model(call)
    return _list(call, call.state.registry.deployments(model.model_id))


async def list_deployments(call: Call) -> Response:
    """List all deployments."""
    _check_customer(call)
    return _list(call, call.state.registry.deployments())


async def deploy(call: Call) -> Response:
    """Deploy a model, which has to be trained; pre-trained ones are said to be ready for it."""
    _check_customer(call)
    order = parse_deployment(await call.json_body(), ignore_unknown=call.ignore_unknown)
    call.record.model = order.model_id
    model = call.state.registry.model(order.model_id)
    if model is None:
        raise ApiError(404, "There is no such model.")
    if model.state(call.state.clock()) != AVAILABLE:
        raise ApiError(400, "modelId: the model is not AVAILABLE.")
    deployment = call.state.registry.deploy(
        dataclasses.replace(order, model_id=model.model_id),
        seconds=call.settings.deploy_seconds,
        fails=call.settings.deploy_fails,
        created_by=call.record.client_id,
    )
    call.record.deployment = deployment.deployment_id
    return _answer(call, deployment_json(deployment, call.state.clock()))


async def undeploy_literally(call: Call) -> Response:
    """Delete by the path of the vendor's own specification, with the deployment in the customer's place."""
    if call.settings.undeploy_path is UndeployPath.REST:
        raise ApiError(call.settings.undeploy_refusal, "There is no such endpoint.")
    return _undeploy(call, call.request.path_params["customer_id"])


async def undeploy(call: Call) -> Response:
    """Delete by the usual path, which no page shows [A]."""
    if call.settings.undeploy_path is UndeployPath.LITERAL:
        raise ApiError(call.settings.undeploy_refusal, "There is no such endpoint.")
    _check_customer(call)
    return _undeploy(call, call.request.path_params["deployment_id"])


def _undeploy(call: Call, deployment_id: str) -> Response:
    call.record.deployment = deployment_id
    registry, settings = call.state.registry, call.settings
    deployment = registry.deployment(deployment_id)
    if deployment is None:
        raise ApiError(404, "There is no such deployment.")
    registry.undeploy(deployment, seconds=settings.undeploy_seconds, fails=settings.undeploy_fails)
    state = DELETE_FAILED if settings.undeploy_fails else DELETED
    return _answer(call, deployment_json(deployment, call.state.clock(), state))


def _answer(call: Call, shown: object) -> Response:
    """Answer with a model or a deployment, or a list of them, less what the switches hide and rewrite."""
    copy = rewrite(shown, call.settings.rewritten_texts)
    for path in call.settings.hidden_fields.get(call.record.endpoint, ()):
        redact_in_logs(copy, path.split("."))
    return JSONResponse(copy)


def _check_customer(call: Call) -> None:
    if call.request.path_params["customer_id"] != call.settings.customer_id:
        raise ApiError(403, "The access token does not belong to this customer.")


def _model(call: Call) -> Model:
    _check_customer(call)
    call.record.model = call.request.path_params["model_id"]
    model = call.state.registry.model(call.record.model or "")
    if model is None:
        raise ApiError(404, "There is no such model.")
    return model


def _shown(call: Call, model: Model) -> dict[str, object]:
    deployments = call.state.registry.deployments(model.model_id)
    return model_json(model, deployments, call.state.clock(), call.settings)


def _list(call: Call, deployments: list[Deployment]) -> Response:
    now = call.state.clock()
    return _answer(call, [deployment_json(one, now) for one in deployments])
