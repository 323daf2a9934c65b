# SPDX-License-Identifier: Apache-2.0
"""
The bodies of *create a model* and *deploy* (sections 10.2 and 10.5).

Which fields are required is not documented [A]: a model needs a name and training data, a deployment a model.
The schema of *deploy* was not found at all; its fields are those of the answer [A].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, load_json, strings
from lucidworks_provider.emulator.customers.registry import DeploymentOrder, ModelOrder

_MODEL = ("name", "modelType", "region", "trainingData", "config", "trainingDataCredentials")
_DEPLOYMENT = ("modelId", "region", "config", "minReplicas", "maxReplicas")
_REGION = "us-southcarolina"  # the region of the examples

# The keys that the example of `config` shows, by type; others are let through, for the list may be longer.
_TEXTS = ("dataset_config", "trainer_config", "trainer_config/text_processor_config")
_COUNTS = ("trainer_config.trn_batch_size", "trainer_config.num_epochs", "trainer_config.monitor_patience")
_NAMES = "trainer_config.encoder_config.rnn_names_list"
_UNITS = "trainer_config.encoder_config.rnn_units_list"
_DROPOUT = "trainer_config.encoder_config.emb_spdp"
_TRAINABLE = "trainer_config.encoder_config.emb_trainable"


def parse_model(body: bytes, *, ignore_unknown: bool) -> ModelOrder:
    """Check the body of *create a model*."""
    payload = Fields.of("body", load_json(body), _MODEL, ignore_unknown=ignore_unknown)
    name = payload.required_text("name")
    return ModelOrder(
        name,
        _training_data(payload, ignore_unknown=ignore_unknown),
        payload.text("modelType"),
        payload.text("region"),
        _training_config(payload),
        _credentials(payload, ignore_unknown=ignore_unknown),
    )


def parse_deployment(body: bytes, *, ignore_unknown: bool) -> DeploymentOrder:
    """Check the body of *deploy*; the documented default of both numbers of replicas is 1."""
    payload = Fields.of("body", load_json(body), _DEPLOYMENT, ignore_unknown=ignore_unknown)
    model_id = payload.required_text("modelId")
    least = payload.integer("minReplicas", 1, minimum=1)
    most = payload.integer("maxReplicas", 1, minimum=1)
    if least > most:
        raise InvalidRequest("minReplicas: at most maxReplicas, which is 1 unless given, is required.")
    config = payload.values.get("config", {})
    if not isinstance(config, dict):  # free JSON for the workflow
        raise InvalidRequest("config: an object is required.")
    return DeploymentOrder(model_id, payload.text("region", _REGION) or _REGION, config, least, most)


def _training_data(payload: Fields, *, ignore_unknown: bool) -> Mapping[str, str]:
    if "trainingData" not in payload:
        raise InvalidRequest("trainingData: an object is required.")
    names = ("catalog", "signals")
    data = payload.object("trainingData", names, ignore_unknown=ignore_unknown)
    given = {name: data.required_text(name) for name in names if name in data}
    if not given:
        raise InvalidRequest("trainingData: a catalog or signals are required.")
    return given


def _credentials(payload: Fields, *, ignore_unknown: bool) -> Mapping[str, str] | None:
    name = "trainingDataCredentials"
    if name not in payload:
        return None
    fields = payload.object(name, ("serviceAccountKey",), ignore_unknown=ignore_unknown)
    return {"serviceAccountKey": fields.required_text("serviceAccountKey")}


def _training_config(payload: Fields) -> Mapping[str, Any] | None:
    """Check the flat object whose keys contain dots and once a slash."""
    if "config" not in payload:
        return None
    value = payload.values["config"]
    config = Fields.of("config", value, value if isinstance(value, dict) else ())
    for name in _TEXTS:
        config.text(name)
    for name in _COUNTS:
        config.integer(name, 1, minimum=1)
    if _NAMES in config:
        strings(config.path(_NAMES), config.values[_NAMES])
    if _UNITS in config:
        units = config.values[_UNITS]
        if not isinstance(units, list) or any(type(one) is not int or one < 1 for one in units):
            raise InvalidRequest(f"{config.path(_UNITS)}: a list of integers of at least 1 is required.")
    config.number(_DROPOUT, 0.0, minimum=0, maximum=1)
    config.boolean(_TRAINABLE, True)
    for name, one in config.values.items():
        if isinstance(one, dict):
            raise InvalidRequest(f"{config.path(name)}: the object is flat, so no object is accepted here.")
    return config.values
