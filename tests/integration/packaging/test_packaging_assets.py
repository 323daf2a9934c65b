# SPDX-License-Identifier: Apache-2.0
"""Assets of the scheme ``lucidworks``, by Airflow's own class: it finds the normaliser through the provider info."""

import pytest
from airflow.providers.common.compat.sdk import Asset


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lucidworks://Acme/models/gte-small", "lucidworks://Acme/models/gte-small"),
        ("LUCIDWORKS://Acme/Models//gte-small/", "lucidworks://Acme/models/gte-small"),
        ("lucidworks://Acme/deployments/D-1#top", "lucidworks://Acme/deployments/D-1"),
    ],
)
def test_the_same_thing_has_the_same_uri(written: str, meant: str) -> None:
    assert Asset(written).uri == meant


@pytest.mark.parametrize(
    "written",
    [
        "lucidworks://Acme/models",
        "lucidworks://Acme/jobs/1",
        "lucidworks:///models/gte-small",
        "lucidworks://Acme/models/a/b",
        "lucidworks://Acme/models/a?version=1",
        "lucidworks://user@Acme/models/a",
    ],
)
def test_what_is_no_model_and_no_deployment_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="lucidworks://CUSTOMER_ID/models/MODEL_ID"):
        Asset(written)
