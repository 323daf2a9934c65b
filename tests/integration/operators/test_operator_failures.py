# SPDX-License-Identifier: Apache-2.0
"""An error that no retry can cure ends a task at once, unless a retry policy decides."""

import inspect
from importlib import import_module
from pkgutil import walk_packages
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator
from airflow.sdk import ExceptionRetryPolicy

import lucidworks_provider
from lucidworks_provider import errors
from lucidworks_provider.decorators import CallingOperator
from lucidworks_provider.errors import (
    ConfigurationError,
    InputError,
    LucidworksError,
    RateLimitError,
    RequestRefusedError,
)
from lucidworks_provider.operators.base import NonRetryableErrorsMixin, as_fail_exception
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy
from lucidworks_provider.sensors.models import LucidworksModelSensor

for module in walk_packages(lucidworks_provider.__path__, "lucidworks_provider."):
    if module.name.partition(".")[2].partition(".")[0] in {"operators", "sensors", "decorators"}:
        import_module(module.name)


def subclasses(kind: type) -> set[type]:
    return {kind}.union(*(subclasses(one) for one in kind.__subclasses__()))


# Without CallingOperator, the base of the decorated operators, which come with an operator.
TASKS = sorted(
    {one for one in subclasses(BaseOperator) if one.__module__.startswith("lucidworks_provider.")}
    - {CallingOperator},
    key=lambda kind: kind.__name__,
)


class Failing(LucidworksPredictionOperator):
    """Of a user: raises in each of its methods."""

    def __init__(self, *, error: Exception, **kwargs: Any) -> None:
        super().__init__(use_case="rag", model_id="m", inputs=["x"], task_id="failing", **kwargs)
        self.error = error

    def execute(self, context: Any) -> Any:
        raise self.error

    def execute_complete(self, context: Any, event: Any) -> Any:
        raise self.error


def raised(error: Exception, method: str = "execute", **options: Any) -> BaseException:
    with pytest.raises(type(error)) as caught:
        getattr(Failing(error=error, **options), method)({}, *([{}] if method == "execute_complete" else []))
    return caught.value


def an(kind: type[LucidworksError]) -> LucidworksError:
    return kind("words", **({"status": 418} if issubclass(kind, errors.ResponseError) else {}))


OURS = [one for one in vars(errors).values() if inspect.isclass(one) and issubclass(one, LucidworksError)]


@pytest.mark.parametrize("kind", OURS, ids=lambda one: one.__name__)
@pytest.mark.parametrize("method", ["execute", "execute_complete"])
def test_an_error_that_is_not_retryable_is_an_airflow_fail_exception(
    kind: type[LucidworksError], method: str
) -> None:
    error = an(kind)
    seen = raised(error, method)
    assert isinstance(seen, AirflowFailException) is not kind.retryable
    assert (seen is error) is kind.retryable


def test_it_keeps_its_class_its_words_and_its_attributes() -> None:
    error = RequestRefusedError("HTTP 400: no such option", status=400)
    error.add_note("of a user")
    seen = raised(error)
    assert isinstance(seen, RequestRefusedError)
    assert (str(seen), seen.status, seen.retryable) == ("HTTP 400: no such option", 400, False)
    assert (seen.__notes__, seen.__cause__) == (["of a user"], error)
    assert f"{type(seen).__module__}.{type(seen).__qualname__}" == f"{errors.__name__}.RequestRefusedError"
    # Made once, and of one class.
    assert as_fail_exception(seen) is seen
    assert type(raised(RequestRefusedError("another", status=400))) is type(seen)


def test_an_instance_may_know_better_than_its_class() -> None:
    passing = InputError("changed while the task was waiting").as_retryable()
    assert raised(passing) is passing
    final = RateLimitError("a quota for good", status=429)
    final.retryable = False
    assert isinstance(raised(final), AirflowFailException)


@pytest.mark.parametrize("policy", [LucidworksRetryPolicy(), ExceptionRetryPolicy(rules=[])])
def test_a_policy_decides_where_there_is_one(policy: Any) -> None:
    error = InputError("refused")
    assert raised(error, retry_policy=policy) is error


@pytest.mark.parametrize("error", [KeyError("k"), AirflowFailException("of a user"), TimeoutError()])
def test_errors_of_others_are_left_alone(error: Exception) -> None:
    assert raised(error) is error


def test_an_override_may_still_catch_it_by_its_class() -> None:
    class Catching(Failing):
        def execute(self, context: Any) -> Any:
            try:
                return super().execute(context)
            except InputError:
                return "caught"

    assert Catching(error=InputError("refused")).execute({}) == "caught"


def test_every_operator_sensor_and_decorator_has_the_rule() -> None:
    assert {"_PredictDecoratedOperator", "_ChunkDecoratedOperator"} <= {kind.__name__ for kind in TASKS}
    assert len(TASKS) >= 10
    assert [kind for kind in TASKS if not issubclass(kind, NonRetryableErrorsMixin)] == []


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_connection_that_is_wrong(deferrable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", '{"conn_type": "lucidworks", "login": "only"}')
    sensor = LucidworksModelSensor(task_id="wait", model_id="m", deferrable=deferrable)
    with pytest.raises(ConfigurationError) as caught:
        sensor.execute({})
    assert isinstance(caught.value, AirflowFailException)
