# SPDX-License-Identifier: Apache-2.0
"""
The asset scheme ``lucidworks://``: one normal form for a model or a deployment.

::

    lucidworks://CUSTOMER_ID/models/MODEL_ID
    lucidworks://CUSTOMER_ID/deployments/DEPLOYMENT_ID

Files and datasets of chunks have the URI of their storage (``s3://…``).
"""

from __future__ import annotations

from urllib.parse import SplitResult

_KINDS = ("models", "deployments")


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Normalize an asset's URI; called by Airflow when a DAG has one.

    :param uri: split, without a password, a fragment and a trailing slash.
    :raises ValueError: it has another form.
    """
    parts = [part for part in uri.path.split("/") if part]
    if not uri.netloc or "@" in uri.netloc or len(parts) != 2 or parts[0].lower() not in _KINDS or uri.query:
        host = uri.netloc.rpartition("@")[2]
        raise ValueError(
            "URI format lucidworks:// must be lucidworks://CUSTOMER_ID/models/MODEL_ID or "
            f"lucidworks://CUSTOMER_ID/deployments/DEPLOYMENT_ID; got {uri.path!r} at {host!r}."
        )
    return uri._replace(path=f"/{parts[0].lower()}/{parts[1]}")
