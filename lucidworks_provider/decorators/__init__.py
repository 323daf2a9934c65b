# SPDX-License-Identifier: Apache-2.0
"""TaskFlow decorators: the function returns the inputs, the task returns the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import DecoratedOperator, context_merge, determine_kwargs

from lucidworks_provider.operators.base import fail_without_retry

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class CallingOperator(DecoratedOperator):
    """Calls a function, whose return value is not rendered, before its operator."""

    @fail_without_retry
    def execute(self, context: Context) -> Any:
        """Call the function, then the operator's ``execute``."""
        context_merge(context, self.op_kwargs)
        kwargs = determine_kwargs(self.python_callable, self.op_args, context)
        self._fill(self.python_callable(*self.op_args, **kwargs))
        # Not that of DecoratedOperator, which would call the function again.
        return super(DecoratedOperator, self).execute(context)

    def _fill(self, returned: Any) -> None:
        raise NotImplementedError


def fields_of(operator: type[Any], *filled: str) -> tuple[Sequence[str], dict[str, str]]:
    """Template fields and renderers of a decorated operator, without the arguments that the function fills."""
    fields = (name for name in operator.template_fields if name not in filled)
    renderers = {k: v for k, v in operator.template_fields_renderers.items() if k not in filled}
    return (
        (*DecoratedOperator.template_fields, *fields),
        {**DecoratedOperator.template_fields_renderers, **renderers},
    )
