# SPDX-License-Identifier: Apache-2.0
"""
The checks of each cell of ``dev.matrix``, within its own environment and without the checkout.

Prints one JSON object of errors, by check; an empty text is a success.
"""

from __future__ import annotations

import json
import pkgutil
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any


def modules() -> str:
    """Every module of the package imports; missing extras raise only where they are needed."""
    import lucidworks_provider

    if not Path(lucidworks_provider.__file__).is_relative_to(sys.prefix):
        return f"the package is not the installed wheel, but {lucidworks_provider.__file__}"
    failed = []
    for found in pkgutil.walk_packages(lucidworks_provider.__path__, "lucidworks_provider."):
        if found.name.endswith(("__main__", "pytest_plugin")):
            continue
        try:
            import_module(found.name)
        except Exception as err:  # noqa: BLE001 - what goes wrong is the finding
            failed.append(f"{found.name}: {type(err).__name__}: {err}")
    return "; ".join(failed)


def provider_info() -> str:
    """It is valid by the schema of this very Airflow."""
    import airflow
    import jsonschema  # type: ignore[import-untyped]

    from lucidworks_provider.get_provider_info import get_provider_info

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)
    return ""


def provider_is_known() -> str:
    """Airflow lists it, and its hook, and nothing is wrong with either."""
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()  # type: ignore[no-untyped-call]
    if "airflow-provider-lucidworks" not in manager.providers:
        return f"not among {sorted(manager.providers)}"
    hook = manager.hooks.get("lucidworks")
    return "" if hook is not None else "no hook for the connection type"


def form() -> str:
    """The form that this version shows: its own fields, their labels, and what it calls the standard ones."""
    import airflow

    from lucidworks_provider.get_provider_info import CONN_FIELDS, ui_field_behaviour

    fields, behaviour = _form()
    wanted = {name: field["label"] for name, field in CONN_FIELDS.items()}
    wrong = [
        f"{name}: {fields.get(name)!r} instead of {label!r}"
        for name, label in wanted.items()
        if fields.get(name) != label
    ]
    wrong += [f"unknown field {name}" for name in fields.keys() - wanted.keys()]
    if {**behaviour.get("relabeling", {})} != {**ui_field_behaviour(airflow.__version__)["relabeling"]}:
        wrong.append(f"relabeling {behaviour.get('relabeling')}")
    return "; ".join(wrong)


def _form() -> tuple[dict[str, str], dict[str, Any]]:
    import airflow
    from packaging.version import Version

    version = Version(airflow.__version__)
    if version < Version("3.0"):
        # The webserver's way: the hook's own widgets.
        from airflow.providers_manager import ProvidersManager

        manager = ProvidersManager()  # type: ignore[no-untyped-call]
        own = {
            info.field_name: str(info.field.kwargs.get("label") or info.field.args[0])
            for name, info in manager.connection_form_widgets.items()
            if name.startswith("extra__lucidworks__")
        }
        return own, dict(manager.field_behaviours["lucidworks"] or {})
    # The way of the API server that the UI asks.
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (ours,) = [one for one in HookMetaService.hook_meta_data() if one.connection_type == "lucidworks"]
    told = ours.model_dump()
    own = {name: str(_title(field)) for name, field in (told["extra_fields"] or {}).items()}
    standard = told["standard_fields"] or {}
    renamed = {
        name: value["title"]
        for name, value in standard.items()
        if value and value.get("title") and name not in {"url_schema"}
    }
    return own, {"relabeling": renamed}


def _title(field: dict[str, Any]) -> Any:
    return field.get("label") or (field.get("schema") or {}).get("title") or field.get("title")


def main() -> int:
    """Look, print."""
    warnings.simplefilter("ignore")
    found = {}
    # The form first: what shows it must be the first to load the hooks, as in an API server.
    for look in (form, modules, provider_info, provider_is_known):
        try:
            found[look.__name__] = look()
        except Exception as err:  # noqa: BLE001 - what goes wrong is the finding
            found[look.__name__] = f"{type(err).__name__}: {err}"
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
