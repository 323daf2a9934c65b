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

from lucidworks_provider.emulator.checks import InvalidRequest, load_json
from lucidworks_provider.emulator.customers import deployment_json, model_json
from lucidworks_provider.emulator.faults import EndpointName, Fault
from lucidworks_provider.emulator.jobs import Job, JobState
from lucidworks_provider.emulator.tokens import Scope

if TYPE_CHECKING:
    from lucidworks_provider.emulator.customers import Model
    from lucidworks_provider.emulator.state import EmulatorState

_GONE = "GONE"


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
    return JSONResponse([record.public() for record in state.log])


async def stats(request: Request) -> Response:
    """Show the counts since the start."""
    state = _state(request)
    counts = state.log
    return JSONResponse(
        {
            "issued": {scope.value: counts.issued[scope.value] for scope in Scope},
            "submissions": counts.endpoints[EndpointName.SUBMIT.value],
            "polls": counts.endpoints[EndpointName.POLL.value],
            "unauthorized": counts.statuses[401],
            "forbidden": counts.statuses[403],
            "rate_limited": counts.statuses[429],
            "dropped": counts.statuses[None],
            "live_tokens": state.tokens.live_count(),
            "jobs": state.jobs.count_by_state(state.settings),
            "calls": {name.value: counts.endpoints[name.value] for name in EndpointName},
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
        state.jobs.force(found, JobState(order.get("state")), str(order.get("message", "Forced by a test.")))
    return JSONResponse(_shown(state, found))


async def models(request: Request) -> Response:
    """List the models, as the Models API shows them."""
    state = _state(request)
    return JSONResponse([_shown_model(state, one) for one in state.registry.models()])


async def model(request: Request) -> Response:
    """Show a model or force its state; GONE removes it, null returns to what the clock says."""
    state = _state(request)
    found = state.registry.model(request.path_params["model_id"])
    if found is None:
        return JSONResponse({"message": "no such model"}, 404)
    if request.method == "POST":
        found.forced = _state_text(await _object(request))
        if found.forced == _GONE:
            state.registry.forget_model(found.model_id)
            return JSONResponse({"id": found.model_id, "state": _GONE})
    return JSONResponse(_shown_model(state, found))


async def deployments(request: Request) -> Response:
    """List the deployments, as the Models API shows them."""
    state = _state(request)
    now = state.clock()
    return JSONResponse([deployment_json(one, now) for one in state.registry.deployments()])


async def deployment(request: Request) -> Response:
    """Show a deployment or force its state; GONE removes it, null returns to what the clock says."""
    state = _state(request)
    found = state.registry.deployment(request.path_params["deployment_id"])
    if found is None:
        return JSONResponse({"message": "no such deployment"}, 404)
    if request.method == "POST":
        found.forced = _state_text(await _object(request))
        if found.forced == _GONE:
            state.registry.forget_deployment(found.deployment_id)
            return JSONResponse({"id": found.deployment_id, "state": _GONE})
    return JSONResponse(deployment_json(found, state.clock()))


async def clock(request: Request) -> Response:
    """Show the emulator's time or push it forward by ``advance`` seconds."""
    state = _state(request)
    if request.method == "POST":
        seconds = (await _object(request)).get("advance")
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
            raise ValueError("advance: seconds, not negative")
        state.clock.advance(seconds)
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
        "kind": job.kind.value,
        "state": state.jobs.peek(job, state.settings).value,
        "polls": job.polls,
    }


def _shown_model(state: EmulatorState, found: Model) -> dict[str, object]:
    # The settings of a control answer never order the credentials.
    settings = dataclasses.replace(state.settings, echo_credentials=False)
    return model_json(found, state.registry.deployments(found.model_id), state.clock(), settings)


def _state_text(order: dict[str, Any]) -> str | None:
    wanted = order.get("state")
    if set(order) != {"state"} or not (wanted is None or (isinstance(wanted, str) and wanted)):
        raise InvalidRequest("state: a text, or null for what the clock says")
    return wanted


async def _object(request: Request) -> dict[str, Any]:
    body = await request.body()
    order = load_json(body) if body else {}
    if not isinstance(order, dict):
        raise InvalidRequest("an object is required")
    return order


_Control = Callable[[Request], Awaitable[Response]]


def _checked(handler: _Control) -> _Control:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ValueError as wrong:  # settings, faults and requests all raise subclasses of it
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
    _route("/models", models, "GET"),
    _route("/models/{model_id}", model, "GET", "POST"),
    _route("/deployments", deployments, "GET"),
    _route("/deployments/{deployment_id}", deployment, "GET", "POST"),
    _route("/clock", clock, "GET", "POST"),
    _route("/reset", reset, "POST"),
]
