# SPDX-License-Identifier: Apache-2.0
"""``@task.lucidworks_predict``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Required, Unpack

from airflow.providers.common.compat.sdk import task_decorator_factory

from lucidworks_provider.decorators import CallingOperator, fields_of
from lucidworks_provider.operators.base import DecoratorArguments, refuse_upstream
from lucidworks_provider.operators.prediction import (
    LucidworksPredictionOperator,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import TaskDecorator


class _PredictDecoratedOperator(CallingOperator, LucidworksPredictionOperator):
    """A :class:`LucidworksPredictionOperator` whose function returns the inputs."""

    template_fields, template_fields_renderers = fields_of(LucidworksPredictionOperator, "inputs")
    custom_operator_name = "@task.lucidworks_predict"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(inputs=None, **kwargs)

    def _fill(self, returned: Any) -> None:
        self.inputs = returned


class PredictTaskArguments(DecoratorArguments, total=False):
    """Of ``@task.lucidworks_predict``; the defaults are those of the operator."""

    use_case: Required[str]
    model_id: Required[str]
    id_column: str | None
    text_column: str
    columns: Sequence[str] | str
    use_case_config: Mapping[str, Any] | str | None
    model_config: Mapping[str, Any] | str | None
    api_key_conn_id: str | None
    result_path: str | None
    batch_size: int | str
    max_reject_ratio: float | str
    on_invalid: Literal["reject", "fail"]
    on_empty: Literal["succeed", "skip", "fail"]
    on_mismatch: Literal["fail", "warn"]
    concurrency: int | str
    max_requests: int | str | None
    max_tokens: int | str | None
    lucidworks_conn_id: str


def lucidworks_predict_task(
    python_callable: Callable[..., Any] | None = None, **kwargs: Unpack[PredictTaskArguments]
) -> TaskDecorator:
    """
    Turn a function that returns inputs into a task that returns predictions.

    ::

        @task.lucidworks_predict(
            use_case="classification", model_id="…", use_case_config={"labels": ["bug", "question"]}
        )
        def triage(tickets): return [ticket["text"] for ticket in tickets]

    :param python_callable: the function; returns the operator's ``inputs``: a list of texts or of
        ``{"text": …, "id": …}``, a URI, a DataFrame, or a generator of rows.

    :param kwargs: arguments of :class:`~lucidworks_provider.operators.prediction.LucidworksPredictionOperator`.
    """
    refuse_upstream(kwargs, _PredictDecoratedOperator.template_fields)
    return task_decorator_factory(
        python_callable=python_callable,
        decorated_operator_class=_PredictDecoratedOperator,
        # Airflow stores the arguments of a mapped task as they are given here.
        **LucidworksPredictionOperator.redact_arguments(kwargs),
    )
