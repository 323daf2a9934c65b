# SPDX-License-Identifier: Apache-2.0
"""What Airflow reads about this package is valid, says the same in all versions, and hides no setting in logs."""

import json
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest
from airflow.providers.common.compat.sdk import BaseHook

from lucidworks_provider import __version__
from lucidworks_provider.client.settings import CONNECTION_TYPE, parse_settings
from lucidworks_provider.get_provider_info import (
    CONN_FIELDS,
    UI_FIELD_BEHAVIOUR,
    get_provider_info,
    ui_field_behaviour,
)
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook


def schema(name: str) -> dict[str, Any]:
    found = find_spec("airflow")
    assert found is not None
    for folder in found.submodule_search_locations or []:
        if (path := Path(folder) / name).is_file():
            loaded: dict[str, Any] = json.loads(path.read_text())
            return loaded
    pytest.fail(f"this Airflow has no {name}")


def should_hide(name: str) -> bool:
    """Airflow's own answer, from where this version keeps it."""
    try:
        from airflow.sdk._shared.secrets_masker import should_hide_value_for_key
    except ImportError:
        try:
            from airflow.sdk.execution_time.secrets_masker import should_hide_value_for_key
        except ImportError:
            from airflow.utils.log.secrets_masker import should_hide_value_for_key
    return bool(should_hide_value_for_key(name))


def test_provider_info_is_valid() -> None:
    jsonschema.validate(get_provider_info(), schema("provider_info.schema.json"))


def test_the_form_is_valid() -> None:
    whole = schema("provider.yaml.schema.json")
    part = {**whole["properties"]["connection-types"], "definitions": whole.get("definitions", {})}
    types = get_provider_info()["connection-types"]
    jsonschema.validate(types, part)
    if "conn-fields" not in part["items"]["properties"]:
        pytest.skip("this Airflow does not know conn-fields yet")
    types[0] = {**types[0], "conn-fields": {"timeout": {"label": 1}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(types, part)


@pytest.mark.parametrize(
    ("airflow", "hidden"),
    [
        *((good, ["port", "schema"]) for good in ("2.11.0", "3.2.2", "3.3.0", "3.3.3", "3.4.0")),
        *((bad, ["schema"]) for bad in ("3.3.1", "3.3.2")),
    ],
)
def test_the_port_is_shown_only_where_the_test_button_needs_one(airflow: str, hidden: list[str]) -> None:
    behaviour = ui_field_behaviour(airflow)
    assert behaviour["hidden-fields"] == hidden
    words = [behaviour[kind].get("port") for kind in ("relabeling", "placeholders")]
    assert all(words) == ("port" not in hidden) == any(words)
    assert "port" in UI_FIELD_BEHAVIOUR["hidden-fields"]


def test_every_default_is_a_value_of_its_field() -> None:
    for name, field in CONN_FIELDS.items():
        jsonschema.Draft7Validator.check_schema(field["schema"])
        jsonschema.validate(None, field["schema"])  # the form stores null for what is left empty
        if "default" in field["schema"]:
            jsonschema.validate(field["schema"]["default"], field["schema"])
        assert field["label"], name


def test_the_defaults_of_the_form_are_those_of_the_connection() -> None:
    stored = {name: field["schema"].get("default") for name, field in CONN_FIELDS.items()}
    given = {"login": "a", "password": "b", "host": "app"}
    assert parse_settings("c", **given, extra=stored) == parse_settings("c", **given, extra={})


def test_no_field_is_taken_for_a_secret() -> None:
    assert should_hide("access_token")  # Airflow's own rule
    assert should_hide("auth_secret")
    assert [name for name in CONN_FIELDS if should_hide(name)] == []


def test_the_entry_point_is_installed() -> None:
    [found] = [
        point
        for point in entry_points(group="apache_airflow_provider")
        if point.value.startswith("lucidworks_provider.")
    ]
    assert found.load()() == get_provider_info()
    assert get_provider_info()["versions"] == [__version__]


def test_airflow_sees_the_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    assert "airflow-provider-lucidworks" in ProvidersManager().providers
    try:
        from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime as HookManager
    except ImportError:
        HookManager = ProvidersManager
    hook = HookManager().hooks[CONNECTION_TYPE]
    assert hook is not None
    assert hook.hook_class_name == "lucidworks_provider.hooks.lucidworks.LucidworksAuthHook"
    assert hook.hook_name == LucidworksAuthHook.hook_name == "Lucidworks AI"
    assert hook.connection_id_attribute_name == LucidworksAuthHook.conn_name_attr


def test_airflow_makes_the_hook_of_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MINE", "lucidworks://a:b@app")
    hook = BaseHook.get_hook("mine")
    assert type(hook) is LucidworksAuthHook
    assert hook.get_settings().conn_id == "mine"


def test_old_airflows_see_the_same_labels() -> None:
    behaviour = LucidworksAuthHook.get_ui_field_behaviour()
    assert {name.replace("_", "-"): value for name, value in behaviour.items()} == UI_FIELD_BEHAVIOUR
    jsonschema.validate(behaviour, schema("customized_form_field_behaviours.schema.json"))


WTFORMS = {
    **{"boolean": "BooleanField", "number": "FloatField"},
    **{"integer": "IntegerField", "string": "StringField"},
}


def check_widgets(widgets: dict[str, Any], default: Any, kind: Any) -> None:
    assert [(name, default(one), kind(one)) for name, one in widgets.items()] == [
        (name, one["schema"].get("default"), WTFORMS[one["schema"]["type"][0]])
        for name, one in CONN_FIELDS.items()
    ]


def test_old_airflows_see_the_same_fields() -> None:
    pytest.importorskip("flask_appbuilder", reason="Airflow 3 comes without Flask AppBuilder")
    widgets = LucidworksAuthHook.get_connection_form_widgets()
    check_widgets(widgets, lambda one: one.kwargs.get("default"), lambda one: one.field_class.__name__)


def test_old_airflows_would_see_the_same_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the least of Flask AppBuilder that the method needs, where the real one is missing."""

    def field(name: str) -> Any:
        return type(name, (), {"__init__": lambda self, **given: setattr(self, "given", given)})

    stand_ins: dict[str, dict[str, Any]] = {
        "flask_appbuilder": {},
        "flask_appbuilder.fieldwidgets": {"BS3TextFieldWidget": object},
        "flask_babel": {"lazy_gettext": str},
        "wtforms": {name: field(name) for name in WTFORMS.values()},
        "wtforms.validators": {"Optional": object},
    }
    for name, contents in stand_ins.items():
        module = ModuleType(name)
        module.__dict__.update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    widgets = LucidworksAuthHook.get_connection_form_widgets()
    check_widgets(widgets, lambda one: one.given["default"], lambda one: type(one).__name__)
    assert [one.given["label"] for one in widgets.values()] == [one["label"] for one in CONN_FIELDS.values()]
