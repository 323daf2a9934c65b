# SPDX-License-Identifier: Apache-2.0
"""
``/_emulator/*``: the test's side of the emulator.

No authentication, so bind the emulator to the loopback interface only, which is the default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from lucidworks_provider.emulator.faults import EndpointName, Fault
from lucidworks_provider.emulator.jobs import Job, JobState
from lucidworks_provider.emulator.models_api import Deployment, Model, deployment_json, model_json
from lucidworks_provider.emulator.rules import (
    InvalidValue,
    check,
    load_json,
    nullable,
    number,
    required,
    text,
)
from lucidworks_provider.emulator.tokens import Scope

if TYPE_CHECKING:
    from lucidworks_provider.emulator.state import EmulatorState

_GONE = "GONE"
_Control = Callable[[Request], Awaitable[Response]]


async def settings(request: Request) -> Response:
    """Show the switches or change some."""
    state = _state(request)
    if request.method == "PATCH":
        state.settings = state.settings.patched(await _object(request))
    return JSONResponse(state.settings.public())


async def faults(request: Request) -> Response:
    """Order faults, list the open ones, or cancel them."""
    state = _state(request)
    if request.method == "POST":
        state.faults.inject(Fault.from_json(await _object(request)))
    elif request.method == "DELETE":
        state.faults.clear()
    return JSONResponse([fault.public() for fault in state.faults.open()])


async def log(request: Request) -> Response:
    """Show the request log or clear it."""
    state = _state(request)
    if request.method == "DELETE":
        state.log.clear()
    return JSONResponse([dataclasses.asdict(record) for record in state.log])


async def stats(request: Request) -> Response:
    """Show the counts since the start."""
    state = _state(request)
    calls, statuses = state.log.endpoints, state.log.statuses
    return JSONResponse(
        {
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
    )


async def kill_tokens(request: Request) -> Response:
    """Delete live tokens, all or those of one scope, as a foreign holder of the client id does by issuing."""
    order = await _object(request)
    scopes = [Scope(order["scope"])] if "scope" in order else list(Scope)
    return JSONResponse({"killed": _state(request).tokens.kill(scopes)})


async def jobs(request: Request) -> Response:
    """List the jobs in order of submission."""
    state = _state(request)
    return JSONResponse([_shown(state, job) for job in state.jobs.all()])


async def job(request: Request) -> Response:
    """Show a job or force its state; GONE ends its retention."""
    state = _state(request)
    found = state.jobs.find(request.path_params["job_id"], state.settings)
    if found is None:
        return JSONResponse({"message": "no such job"}, 404)
    if request.method == "POST":
        order = await _object(request)
        if order.get("state") == _GONE:
            state.jobs.forget(found.job_id)
            return JSONResponse({"job_id": found.job_id, "state": _GONE})
        state.jobs.force(
            found, JobState(order.get("state", "")), str(order.get("message", "Forced by a test."))
        )
    return JSONResponse(_shown(state, found))


def _every(request: Request) -> dict[str, Model] | dict[str, Deployment]:
    registry = _state(request).registry
    if "/models" in request.url.path:
        return {one.model_id: one for one in registry.models()}
    return {one.deployment_id: one for one in registry.deployments()}


def _resource(state: EmulatorState, found: Model | Deployment) -> dict[str, object]:
    """Show a model or a deployment as the Models API does, but never the credentials."""
    if isinstance(found, Deployment):
        return deployment_json(found, state.clock())
    settings = dataclasses.replace(state.settings, echo_credentials=False)
    return model_json(found, state.registry.deployments(found.model_id), state.clock(), settings)


async def resources(request: Request) -> Response:
    """List the models or the deployments."""
    return JSONResponse([_resource(_state(request), one) for one in _every(request).values()])


async def resource(request: Request) -> Response:
    """Show a model or a deployment or force its state; GONE removes it, null is what the clock says."""
    state, wanted = _state(request), request.path_params["id"]
    found = _every(request).get(wanted.lower())
    if found is None:
        return JSONResponse({"message": "there is no such id"}, 404)
    if request.method == "POST":
        order = check("order", await _object(request), {"state": nullable(text)})
        if not order:
            raise InvalidValue("state: a text, or null for what the clock says")
        found.forced = order["state"]
        if found.forced == _GONE:
            state.registry.forget(wanted.lower())
            return JSONResponse({"id": wanted, "state": _GONE})
    return JSONResponse(_resource(state, found))


async def clock(request: Request) -> Response:
    """Show the emulator's time or push it forward by ``advance`` seconds."""
    state = _state(request)
    if request.method == "POST":
        order = check("order", await _object(request), {"advance": required(number(0))})
        state.clock.advance(order["advance"])
    return JSONResponse({"time": state.clock()})


async def reset(request: Request) -> Response:
    """Return to the state after start."""
    _state(request).reset()
    return JSONResponse({"reset": True})


def _state(request: Request) -> EmulatorState:
    state: EmulatorState = request.app.state.emulator
    return state


def _shown(state: EmulatorState, job: Job) -> dict[str, object]:
    return {
        "job_id": job.job_id,
        "kind": job.kind,
        "state": state.jobs.peek(job, state.settings),
        "polls": job.polls,
    }


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    order = load_json(body) if body else {}
    if not isinstance(order, dict):
        raise InvalidValue("an object is required")
    return order


def _checked(handler: _Control) -> _Control:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ValueError as wrong:  # wrong values and unknown names of enumerations
            return JSONResponse({"message": str(wrong)}, 400)

    return answer


def _route(path: str, handler: _Control, *methods: str) -> Route:
    return Route(f"/_emulator{path}", _checked(handler), methods=list(methods))


ROUTES = [
    _route("/settings", settings, "GET", "PATCH"),
    _route("/faults", faults, "GET", "POST", "DELETE"),
    _route("/log", log, "GET", "DELETE"),
    _route("/stats", stats, "GET"),
    _route("/tokens/kill", kill_tokens, "POST"),
    _route("/jobs", jobs, "GET"),
    _route("/jobs/{job_id}", job, "GET", "POST"),
    _route("/models", resources, "GET"),
    _route("/models/{id}", resource, "GET", "POST"),
    _route("/deployments", resources, "GET"),
    _route("/deployments/{id}", resource, "GET", "POST"),
    _route("/clock", clock, "GET", "POST"),
    _route("/reset", reset, "POST"),
]
