# SPDX-License-Identifier: Apache-2.0
"""The use cases and models that the service lists, and errors that suggest them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from lucidworks_provider.client.http.messages import (
    Call,
    Exchange,
    Request,
    Response,
    Steps,
    check_status,
    endpoint,
    excerpt,
    get,
    parse_json,
)
from lucidworks_provider.client.options import did_you_mean, plain
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    ForbiddenError,
    LucidworksError,
    MalformedAnswerError,
    RequestRefusedError,
    UnknownResourceError,
)


def list_use_cases() -> Call[dict[str, tuple[str, ...]]]:
    """
    The models of each use case.

    The path is an assumption (no vendor page states it): ``use_cases_path`` of the connection changes it.
    """
    return endpoint(
        lambda settings: get("List use cases", settings.use_cases_url, endpoint="list_use_cases"),
        read_use_cases,
    )


T = TypeVar("T")


def naming_models(
    use_case: str,
    model_id: str,
    build: Callable[[LucidworksSettings], Request],
    parse: Callable[[Response], T],
    *,
    refusals: tuple[type[LucidworksError], ...] = (
        UnknownResourceError,
        RequestRefusedError,
        ForbiddenError,
    ),
) -> Call[T]:
    """
    Return a call of one request, whose error for an unknown use case or model suggests those that the service lists.

    :param refusals: possible errors for an unknown one; which of them is undocumented.
    """

    def steps(settings: LucidworksSettings) -> Steps[T]:
        try:
            parsed: T = yield Exchange(build(settings), parse)
        except refusals as err:
            refused: LucidworksError = err
        else:
            return parsed
        try:
            listed = yield replace(list_use_cases().first(settings), attempts=1)
            hint = nearest(listed, use_case, model_id)
        except LucidworksError:
            hint = ""
        if hint:
            refused.args = (f"{str(refused).rstrip('.')}. {hint}", *refused.args[1:])
        raise refused from None

    return Call(steps)


# Names that a list of use cases may put its strings under (no page shows it).
_NAME_FIELDS = ("useCase", "usecase", "use_case", "name", "id")
_MODEL_FIELDS = ("models", "modelIds", "modelId", "model")
_LISTS_OF_MODELS = ("models", "modelIds")


def read_use_cases(answer: Response) -> dict[str, tuple[str, ...]]:
    """
    The models of each use case.

    No page shows this answer, so whatever looks like names is taken: a list of objects with a name and
    models, an object of lists, or either of them one level down.

    :raises MalformedAnswerError: no JSON at all.
    """
    check_status(answer, "List use cases")
    decoded = parse_json(answer.body)
    if not isinstance(decoded, list | dict):
        raise MalformedAnswerError(
            f"List use cases: no JSON list or object; it starts: {excerpt(answer.body)!r}",
            status=answer.status,
        )
    return _use_cases(decoded, depth=2)


def _use_cases(value: object, depth: int) -> dict[str, tuple[str, ...]]:
    if isinstance(value, list):
        found: dict[str, tuple[str, ...]] = {}
        for one in value:
            if isinstance(one, str):
                found.setdefault(one, ())
            elif isinstance(one, Mapping):
                name = next((one[n] for n in _NAME_FIELDS if isinstance(one.get(n), str)), None)
                if name is not None:
                    found[name] = found.get(name, ()) + _models(one)
        return found
    if isinstance(value, Mapping):
        # {"useCases": [{"useCase": …, "models": […]}, …], "total": 9}, or {"data": {…}}.
        for name, one in value.items():
            if depth and (plain(str(name)) == "usecases" or _holds_use_cases(one)):
                return _use_cases(one, depth - 1)
        # {"embedding": ["gte-small", …], …}, or {"embedding": {"models": […]}, …}.
        listed = {
            str(name): _models(one) if isinstance(one, Mapping) else _strings(one)
            for name, one in value.items()
            if isinstance(one, list) or (isinstance(one, Mapping) and set(_MODEL_FIELDS) & set(one))
        }
        inner = [one for one in value.values() if isinstance(one, Mapping)]
        return _use_cases(inner[0], depth - 1) if depth and not listed and len(inner) == 1 else listed
    return {}


def _holds_use_cases(value: object) -> bool:
    return isinstance(value, list) and any(
        isinstance(one, Mapping)
        and any(isinstance(one.get(name), str) for name in _NAME_FIELDS)
        and any(isinstance(one.get(name), list) for name in _LISTS_OF_MODELS)
        for one in value
    )


def _models(one: Mapping[str, Any]) -> tuple[str, ...]:
    return next((_strings(one[name]) for name in _MODEL_FIELDS if name in one), ())


def _strings(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        return ()
    named = (
        next((one[n] for n in ("modelId", *_NAME_FIELDS) if isinstance(one.get(n), str)), None)
        if isinstance(one, Mapping)
        else one
        for one in value
    )
    return tuple(name for name in named if isinstance(name, str))


def nearest(use_cases: Mapping[str, Sequence[str]], use_case: str, model_id: str) -> str:
    """A sentence with the nearest names; empty if the list has none."""
    name = use_case.replace("_", "-")
    by_name = {name.replace("_", "-"): models for name, models in use_cases.items()}
    models = by_name.get(name)
    if models is None:
        listed = f"The service lists no use case {use_case!r}, but {', '.join(sorted(by_name))}."
        return f"{listed}{did_you_mean(name, by_name)}" if by_name else ""
    if model_id in models or not models:
        return ""
    close = difflib.get_close_matches(model_id, models, n=3, cutoff=0.4) or list(models)[:5]
    return f"For {use_case!r} the service lists {', '.join(close)}."
