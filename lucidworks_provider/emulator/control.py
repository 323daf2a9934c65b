# SPDX-License-Identifier: Apache-2.0
"""
``/_emulator/*``: the test's side of the emulator.

No authentication, so bind the emulator to the loopback interface only, which is the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lucidworks_provider.emulator.faults import EndpointName, Fault
from lucidworks_provider.emulator.jobs import Job, JobState
from lucidworks_provider.emulator.models_api import Deployment, Model, deployment_json, model_json
from lucidworks_provider.emulator.rules import (
    Default,
    InvalidValue,
    check,
    load_json,
    member_of,
    nullable,
    number,
    one_of,
    required,
    text,
)
from lucidworks_provider.emulator.tokens import Scope

if TYPE_CHECKING:
    from starlette.requests import Request

    from lucidworks_provider.emulator.state import EmulatorState

_GONE = "GONE"
_JOB = {"state": required(one_of(*JobState, _GONE)), "message": Default(text, "Forced by a test.")}
_Order: TypeAlias = dict[str, Any]
_Control: TypeAlias = "Callable[[EmulatorState, Request, _Order], object]"
"""Gives the JSON of the response; the last argument is the body of a POST or PATCH, else empty."""


def settings(state: EmulatorState, request: Request, order: _Order) -> object:
    if request.method == "PATCH":
        state.settings = state.settings.patched(order)
    return state.settings.public()


def faults(state: EmulatorState, request: Request, order: _Order) -> object:
    """Add a fault, list the open ones, or remove them."""
    if request.method == "POST":
        state.faults.inject(Fault.from_json(order))
    elif request.method == "DELETE":
        state.faults.clear()
    return [fault.public() for fault in state.faults.open()]


def log(state: EmulatorState, request: Request, order: _Order) -> object:
    if request.method == "DELETE":
        state.log.clear()
    return [dataclasses.asdict(record) for record in state.log]


def stats(state: EmulatorState, request: Request, order: _Order) -> object:
    calls, statuses = state.log.endpoints, state.log.statuses
    return {
        "issued": {scope: state.log.issued[scope] for scope in Scope},
        "submissions": calls["submit"],
        "polls": calls["poll"],
        "unauthorized": statuses[401],
        "forbidden": statuses[403],
        "rate_limited": statuses[429],
        "dropped": statuses[None],
        "live_tokens": state.tokens.live_count(),
        "jobs": state.jobs.count_by_state(state.settings),
        "calls": {name: calls[name] for name in EndpointName},
    }


def kill_tokens(state: EmulatorState, request: Request, order: _Order) -> object:
    """Delete live tokens, all or those of one scope, as a foreign holder of the client id does by issuing."""
    order = check("order", order, {"scope": member_of(Scope)})
    return {"killed": state.tokens.kill([order["scope"]] if order else list(Scope))}


def jobs(state: EmulatorState, request: Request, order: _Order) -> object:
    return [_job_json(state, job) for job in state.jobs.all()]


def job(state: EmulatorState, request: Request, order: _Order) -> object:
    """Show a job or force its state; GONE ends its retention."""
    found = state.jobs.find(request.path_params["id"], state.settings)
    if found is None:
        raise LookupError("there is no such job")
    if request.method == "POST":
        order = check("order", order, _JOB)
        if order["state"] == _GONE:
            state.jobs.forget(found.job_id)
            return {"job_id": found.job_id, "state": _GONE}
        state.jobs.force(found, JobState(order["state"]), order["message"])
    return _job_json(state, found)


def _job_json(state: EmulatorState, job: Job) -> dict[str, object]:
    shown = state.jobs.peek(job, state.settings)
    return {"job_id": job.job_id, "kind": job.kind, "state": shown, "polls": job.polls}


def _resources(state: EmulatorState, request: Request) -> dict[str, Model] | dict[str, Deployment]:
    if "/models" in request.url.path:
        return {one.model_id: one for one in state.registry.models()}
    return {one.deployment_id: one for one in state.registry.deployments()}


def _resource_json(state: EmulatorState, found: Model | Deployment) -> dict[str, object]:
    """Show a model or a deployment as the Models API does, but never the credentials."""
    if isinstance(found, Deployment):
        return deployment_json(found, state.clock())
    settings = dataclasses.replace(state.settings, echo_credentials=False)
    return model_json(found, state.registry.deployments(found.model_id), state.clock(), settings)


def resources(state: EmulatorState, request: Request, order: _Order) -> object:
    return [_resource_json(state, one) for one in _resources(state, request).values()]


def resource(state: EmulatorState, request: Request, order: _Order) -> object:
    """Show a model or a deployment or force its state; GONE removes it, null is what the clock says."""
    wanted = request.path_params["id"].lower()
    found = _resources(state, request).get(wanted)
    if found is None:
        raise LookupError("there is no such id")
    if request.method == "POST":
        order = check("order", order, {"state": nullable(text)})
        if not order:
            raise InvalidValue("state: a text, or null for what the clock says")
        found.forced = order["state"]
        if found.forced == _GONE:
            state.registry.forget(wanted)
            return {"id": wanted, "state": _GONE}
    return _resource_json(state, found)


def clock(state: EmulatorState, request: Request, order: _Order) -> object:
    """Show the emulator's time or push it forward by ``advance`` seconds."""
    if request.method == "POST":
        state.clock.advance(check("order", order, {"advance": required(number(0))})["advance"])
    return {"time": state.clock()}


def reset(state: EmulatorState, request: Request, order: _Order) -> object:
    state.reset()
    return {"reset": True}


def _route(path: str, handler: _Control, *methods: str) -> Route:
    async def respond(request: Request) -> Response:
        try:
            body = await request.body() if request.method in {"POST", "PATCH"} else b""
            order = load_json(body) if body else {}
            if not isinstance(order, dict):
                raise InvalidValue("an object is required")
            return JSONResponse(handler(request.app.state.emulator, request, order))
        except LookupError as unknown:
            return JSONResponse({"message": str(unknown)}, 404)
        except ValueError as wrong:  # wrong values and unknown names of enumerations
            return JSONResponse({"message": str(wrong)}, 400)

    return Route(f"/_emulator{path}", respond, methods=list(methods))


ROUTES = [
    _route("/settings", settings, "GET", "PATCH"),
    _route("/faults", faults, "GET", "POST", "DELETE"),
    _route("/log", log, "GET", "DELETE"),
    _route("/stats", stats, "GET"),
    _route("/tokens/kill", kill_tokens, "POST"),
    _route("/jobs", jobs, "GET"),
    _route("/jobs/{id}", job, "GET", "POST"),
    _route("/models", resources, "GET"),
    _route("/models/{id}", resource, "GET", "POST"),
    _route("/deployments", resources, "GET"),
    _route("/deployments/{id}", resource, "GET", "POST"),
    _route("/clock", clock, "GET", "POST"),
    _route("/reset", reset, "POST"),
]
