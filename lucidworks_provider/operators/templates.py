# SPDX-License-Identifier: Apache-2.0
"""Templates that render ``None``, in every argument of every operator, sensor and decorated task."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.failures import failing_at_once

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class NoneTemplatesMixin:
    """
    An argument whose template renders ``None`` is absent: its default applies.

    Jinja renders ``None`` as the text ``None``, and Airflow decodes that text only with
    ``render_template_as_native_obj``. Within a dictionary or a list, such a value is None. A literal ``"None"`` is
    a text.
    """

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render as Airflow does, for nested values too, but None as None and characters as a whole."""
        rendered = super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
        if isinstance(content, str):
            rendered = _join_surrogates(rendered)
        is_none = isinstance(content, str) and isinstance(rendered, str) and rendered.strip() == "None"
        return None if is_none and content.strip() != "None" else rendered

    @failing_at_once
    def _do_render_template_fields(
        self, parent: Any, template_fields: Iterable[str], *args: Any, **kwargs: Any
    ) -> None:
        """Airflow calls this for a task, mapped or not, and for objects within its arguments."""
        fields = list(template_fields)
        given = {field for field in fields if getattr(parent, field, None) is not None}
        super()._do_render_template_fields(parent, fields, *args, **kwargs)  # type: ignore[misc]
        if parent is not self:
            return
        for field in given:
            if getattr(self, field) is None:
                setattr(self, field, _default_of(type(self), field))


def _join_surrogates(value: Any) -> Any:
    """Join surrogate pairs: ``tojson`` escapes an emoji as two halves, which native rendering leaves apart."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    if type(value) is list:
        return [_join_surrogates(one) for one in value]
    if type(value) is dict:
        return {_join_surrogates(name): _join_surrogates(one) for name, one in value.items()}
    return value


def _default_of(operator: type, argument: str) -> Any:
    for each in operator.__mro__:
        if "__init__" in vars(each):
            parameter = inspect.signature(vars(each)["__init__"]).parameters.get(argument)
            if parameter is not None and parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                if parameter.default is inspect.Parameter.empty:
                    break
                return parameter.default
    raise InputError(
        f"{argument} rendered to None, and it is required. Check the template: a task that it reads from may have "
        "returned nothing, or been skipped, and a param may be None."
    )
