# SPDX-License-Identifier: Apache-2.0
"""
What Airflow reads about this package: its name, its classes, and the connection form.

Airflow 3.2 and later build the form from ``conn-fields`` and ``ui-field-behaviour`` without importing the
hook; older versions call two classmethods of the hook, which are generated from this same dictionary
(:func:`lucidworks_provider.hooks.lucidworks.LucidworksAuthHook.get_connection_form_widgets`).
"""

from __future__ import annotations

import sys
from typing import Any

from lucidworks_provider import __version__
from lucidworks_provider.client.settings import (
    CONNECTION_TYPE,
    DEFAULT_AUTH_SERVER_ID,
    DEFAULT_AUTH_URL,
    DEFAULT_DEPLOYMENTS_PATH,
    DEFAULT_MODELS_URL,
    DEFAULT_TIMEOUT,
    DEFAULT_USE_CASES_PATH,
    SHARE_VIA,
    UNDEPLOY_PATHS,
)

# No field may be named after a token, secret, key or proxy: Airflow would blank its value in every log.
CONN_FIELDS: dict[str, dict[str, Any]] = {
    "customer_id": {
        "label": "Customer ID",
        "description": "Required for the Models API only. Lucidworks provides it; its UI does not show it.",
        "schema": {"type": ["string", "null"]},
    },
    "application_url": {
        "label": "Application URL",
        "description": (
            "Base URL instead of https://APPLICATION_ID.applications.lucidworks.com, e.g. of a gateway or emulator."
        ),
        "schema": {"type": ["string", "null"], "format": "url"},
    },
    "auth_url": {
        "label": "Identity URL",
        "description": "Host that issues access tokens.",
        "schema": {"type": ["string", "null"], "format": "url", "default": DEFAULT_AUTH_URL},
    },
    "auth_server_id": {
        "label": "Authorization server",
        "description": "Identifier in the path of the token endpoint.",
        "schema": {"type": ["string", "null"], "default": DEFAULT_AUTH_SERVER_ID},
    },
    "models_url": {
        "label": "Models API URL",
        "description": "Host of the Models API.",
        "schema": {"type": ["string", "null"], "format": "url", "default": DEFAULT_MODELS_URL},
    },
    "verify": {
        "label": "Verify TLS certificates",
        "description": "Disable for tests only: without verification, the Client Secret can be intercepted.",
        "schema": {"type": ["boolean", "null"], "default": True},
    },
    "ca_bundle": {
        "label": "CA bundle",
        "description": "PEM file with the certificate authorities to trust, at the same path on every host.",
        "schema": {"type": ["string", "null"]},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "A request fails after this many seconds without receiving a byte.",
        "schema": {"type": ["integer", "null"], "minimum": 1, "default": int(DEFAULT_TIMEOUT)},
    },
    "share_via": {
        "label": "Share the access token via",
        "description": (
            "Where all workers and triggerers share the access token: airflow (an encrypted Variable), redis, "
            "or memory (one process only: a second process would invalidate it)."
        ),
        "schema": {"type": ["string", "null"], "enum": [*SHARE_VIA, None], "default": SHARE_VIA[0]},
    },
    "redis_conn_id": {
        "label": "Redis connection id",
        "description": "For sharing via redis: the Airflow connection with the Redis server's address.",
        "schema": {"type": ["string", "null"]},
    },
    "use_cases_path": {
        "label": "Path of the use cases",
        "description": "Path below the Application URL. The vendor does not document it.",
        "schema": {"type": ["string", "null"], "default": DEFAULT_USE_CASES_PATH},
    },
    "use_case_segments": {
        "label": "Path segments of use cases",
        "description": 'JSON object of use cases whose path segment is not their name: {"ner": "entities"}.',
        "schema": {"type": ["string", "null"]},
    },
    "deployments_path": {
        "label": "Path of the deployments",
        "description": "Path below the Models API URL. The vendor's pages contradict each other.",
        "schema": {"type": ["string", "null"], "default": DEFAULT_DEPLOYMENTS_PATH},
    },
    "undeploy_path": {
        "label": "Path of a deployment's deletion",
        "description": (
            f"Path below the Models API URL. Empty: {UNDEPLOY_PATHS[0]}, or {UNDEPLOY_PATHS[1]} if refused."
        ),
        "schema": {"type": ["string", "null"]},
    },
}

UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["port", "schema"],
    "relabeling": {"login": "Client ID", "password": "Client Secret", "host": "Application ID"},
    "placeholders": {
        "login": "Client ID of the integration",
        "password": "Client Secret of the integration",
        "host": "first label of APPLICATION_ID.applications.lucidworks.com",
    },
}


# Their test button sends port 0 for a connection that has none, takes that for another host than the stored one, and
# refuses ("Bad Request") before any hook is asked: https://github.com/apache/airflow/pull/73298.
_NEED_A_PORT = frozenset({"3.3.1", "3.3.2"})


def ui_field_behaviour(airflow: str) -> dict[str, Any]:
    """
    What the form does with Airflow's own fields.

    :param airflow: the version. Two of them get the port as well, which is used for nothing else.
    """
    if airflow not in _NEED_A_PORT:
        return UI_FIELD_BEHAVIOUR
    added = {
        "relabeling": "Port (not used)",
        "placeholders": f"0 makes the test button of Airflow {airflow} work",
    }
    hidden = [name for name in UI_FIELD_BEHAVIOUR["hidden-fields"] if name != "port"]
    changed = {kind: UI_FIELD_BEHAVIOUR[kind] | {"port": words} for kind, words in added.items()}
    return {"hidden-fields": hidden, **changed}


def get_provider_info() -> dict[str, Any]:
    """Entry point ``apache_airflow_provider``."""
    name = "Lucidworks AI"
    # Airflow has imported itself when it calls this; other callers need not import it.
    version = getattr(sys.modules.get("airflow"), "__version__", "")
    return {
        "package-name": "airflow-provider-lucidworks",
        "name": name,
        "description": (
            "Runs jobs of `Lucidworks AI <https://lucidworks.com/>`__: predictions, chunks with vectors, "
            "training and deployment of models."
        ),
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://doc.lucidworks.com/",
                # In the sdist, as in those of Airflow's own providers.
                "logo": "/docs/integration-logos/lucidworks-provider.svg",
                "tags": ["service"],
            }
        ],
        "hooks": [
            {
                "integration-name": name,
                "python-modules": [
                    "lucidworks_provider.hooks.lucidworks",
                ],
            }
        ],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [
                    "lucidworks_provider.operators.chunking",
                    "lucidworks_provider.operators.corpus",
                    "lucidworks_provider.operators.models",
                    "lucidworks_provider.operators.prediction",
                ],
            }
        ],
        "sensors": [
            {
                "integration-name": name,
                "python-modules": ["lucidworks_provider.sensors.jobs", "lucidworks_provider.sensors.models"],
            }
        ],
        "triggers": [
            {
                "integration-name": name,
                "python-modules": ["lucidworks_provider.triggers"],
            }
        ],
        "task-decorators": [
            {
                "class-name": "lucidworks_provider.decorators.predict.lucidworks_predict_task",
                "name": "lucidworks_predict",
            },
            {
                "class-name": "lucidworks_provider.decorators.chunk.lucidworks_chunk_task",
                "name": "lucidworks_chunk",
            },
        ],
        "asset-uris": [{"schemes": ["lucidworks"], "handler": "lucidworks_provider.assets.sanitize_uri"}],
        "extra-links": [
            "lucidworks_provider.links.LucidworksReportLink",
            "lucidworks_provider.links.LucidworksResultLink",
        ],
        "connection-types": [
            {
                "connection-type": CONNECTION_TYPE,
                "hook-class-name": "lucidworks_provider.hooks.lucidworks.LucidworksAuthHook",
                "hook-name": name,
                "ui-field-behaviour": ui_field_behaviour(version),
                "conn-fields": CONN_FIELDS,
            }
        ],
    }
