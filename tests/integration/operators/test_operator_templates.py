# SPDX-License-Identifier: Apache-2.0
"""Templates that render None, and texts for numbers and booleans, in the arguments of every operator and sensor."""

import inspect
import json
import os
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator, TaskDeferred
from operator_service import new_context, scripted

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.decorators.chunk import _ChunkDecoratedOperator, lucidworks_chunk_task
from lucidworks_provider.decorators.predict import _PredictDecoratedOperator, lucidworks_predict_task
from lucidworks_provider.delta.log import read_table
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import InputError, LucidworksError
from lucidworks_provider.get_provider_info import get_provider_info
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import (
    LucidworksChunkCorpusOperator,
    LucidworksPublishShardsOperator,
)
from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksTrainModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor, LucidworksModelSensor

NONE = "{{ params.none }}"
PARAMS = {"none": None, "word": "None", "size": 512, "flag": False, "list": [None]}
REQUIRED: Any = object()

CHUNKING: dict[str, Any] = {"chunker": "sentence", "model_id": "gte-small"}
PREDICTION: dict[str, Any] = {"use_case": "embedding", "model_id": "gte-small"}
TRAINING: dict[str, Any] = {"name": "n", "model_type": "t", "training_data": {"catalog": "gs://a/b"}}


# Each class, its required arguments, and by attribute what an argument that rendered None becomes.
def required(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, REQUIRED)


def absent(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names)


ROWS = {"max_reject_ratio": 0.05, "on_invalid": "reject", "on_empty": "succeed", "on_mismatch": "fail"}
TABLE = {"id_column": "id", "text_column": "text", "columns": (), **ROWS}
WAITING = {"deferrable": False, "poll_interval": 30.0, "timeout": 3600.0}
JOBS = {**WAITING, "on_unknown_submission": "resubmit", "max_requests": None}
WAIT = {**WAITING, "poll_interval": 15.0, "wait_for_completion": True}
CHUNKED = {
    **required("chunker", "model_id", "result_path"),
    **absent("chunker_config", "model_config"),
    **{"data_type": "passage", "max_text_bytes": 990_000},
    **TABLE,
    **JOBS,
}
ASKED = {
    **required("use_case", "model_id"),
    **absent("use_case_config", "model_config", "api_key_conn_id"),
    **{"batch_size": 32},
    **TABLE,
}
PREDICTED = {**ASKED, **absent("result_path", "max_requests", "max_tokens"), "concurrency": 4}
DATASET = {
    **required("output_uri"),
    **absent("report_url"),
    **{"on_busy": "wait", "busy_timeout": 3600.0, "retention": timedelta(days=7)},
}
CASES: dict[type[BaseOperator], tuple[dict[str, Any], dict[str, Any]]] = {
    LucidworksChunkOperator: (
        {**CHUNKING, "result_path": "/a.jsonl", "text": "x"},
        {**CHUNKED, **absent("text", "documents")},
    ),
    LucidworksChunkCorpusOperator: (
        {**CHUNKING, "source": "/a", "output_uri": "/b"},
        {
            **required("chunker", "model_id", "source"),
            **absent("chunker_config", "model_config", "listing", "encoding", "max_requests", "max_tokens"),
            **absent("csv_delimiter", "csv_escapechar", "csv_columns"),
            **{"csv_quotechar": '"', "id_column": "id", "text_column": "text", "data_type": "passage"},
            **dict.fromkeys(["full_refresh", "prune", "plan_only", "keep_raw"], False),
            **{"max_reject_ratio": 0.05, "on_truncated": "warn", "on_mismatch": "reject"},
            **{"on_missing_chunks": "resend", "deletion_vectors": True},
            **{"max_in_flight": 512, "timeout": 3600.0, "poll_interval": 30.0},
            **{"max_text_bytes": 990_000, "max_document_bytes": 20_000_000},
            **DATASET,
        },
    ),
    LucidworksPublishShardsOperator: ({"staged": [], "output_uri": "/b"}, {**required("staged"), **DATASET}),
    LucidworksPredictionOperator: ({**PREDICTION, "inputs": ["x"]}, {**required("inputs"), **PREDICTED}),
    LucidworksAsyncPredictionOperator: (
        {**PREDICTION, "inputs": ["x"], "result_path": "/a.jsonl"},
        {**required("inputs", "result_path"), **ASKED, **JOBS},
    ),
    LucidworksTrainModelOperator: (
        TRAINING,
        {
            **required(*TRAINING),
            **absent("region", "config", "credentials_conn_id", "training_data_credentials"),
            **WAIT,
            **{"if_ambiguous": "fail", "poll_interval": 60.0, "timeout": timedelta(hours=24)},
        },
    ),
    LucidworksDeployModelOperator: (
        {"model_id": "m"},
        {
            **required("model_id"),
            **absent("region", "config"),
            **{"min_replicas": 1, "max_replicas": 1, "if_ambiguous": "fail"},
            **WAIT,
        },
    ),
    LucidworksUndeployModelOperator: ({"deployment_id": "d"}, {**required("deployment_id"), **WAIT}),
    LucidworksJobSensor: (
        {"job_id": "j"},
        {**required("job_id"), "kind": "chunking", "result_path": None, "deferrable": False},
    ),
    LucidworksModelSensor: (
        {"model_id": "m"},
        {**required("model_id"), "target_state": "AVAILABLE", "deferrable": False},
    ),
    LucidworksDeploymentSensor: (
        {"deployment_id": "d"},
        {**required("deployment_id"), "target_state": "DEPLOYED", "deferrable": False},
    ),
    _ChunkDecoratedOperator: (
        {**CHUNKING, "result_path": "/a.jsonl", "python_callable": lambda: "x"},
        CHUNKED,
    ),
    _PredictDecoratedOperator: ({**PREDICTION, "python_callable": lambda: "x"}, PREDICTED),
}
CASES = {
    operator: (given, arguments | {"lucidworks_conn_id": DEFAULT_CONN_ID})
    if operator is not LucidworksPublishShardsOperator
    else (given, arguments)
    for operator, (given, arguments) in CASES.items()
}


def rendered(operator: type[BaseOperator], *, native: bool = False, **arguments: Any) -> Any:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1), render_template_as_native_obj=native):
        task = operator(task_id="t", **CASES[operator][0] | arguments)
    task.render_template_fields({"params": PARAMS})  # type: ignore[typeddict-item]
    return task


# Of the base class of decorated operators.
OF_AIRFLOW = {"op_args", "op_kwargs"}


def test_every_templated_argument_is_in_the_table() -> None:
    for operator, (_, arguments) in CASES.items():
        assert set(arguments) == set(operator.template_fields) - OF_AIRFLOW, operator
        assert set(operator.template_fields_renderers) <= set(operator.template_fields)


# What no template field has.
RETURNS, VALIDATES = "what the function returns", "Airflow validates it"
SENSORS = (LucidworksJobSensor, LucidworksModelSensor, LucidworksDeploymentSensor)
NOT_TEMPLATED: dict[type[BaseOperator], dict[str, str]] = {
    _ChunkDecoratedOperator: {"text": RETURNS, "documents": RETURNS},
    _PredictDecoratedOperator: {"inputs": RETURNS},
    **{sensor: {"poke_interval": VALIDATES, "timeout": VALIDATES} for sensor in SENSORS},
}


def arguments_of(operator: type[BaseOperator]) -> set[str]:
    """The arguments of this package."""
    constructors = [
        inspect.unwrap(vars(cls)["__init__"])
        for cls in operator.__mro__
        if cls.__module__.startswith("lucidworks_provider") and "__init__" in vars(cls)
    ]
    parameters = [one for init in constructors for one in inspect.signature(init).parameters.values()]
    return {one.name for one in parameters if one.kind is one.KEYWORD_ONLY}


@pytest.mark.parametrize("operator", CASES)
def test_every_argument_is_templated(operator: type[BaseOperator]) -> None:
    """Under its own name: Airflow looks there for what was passed."""
    templated = set(operator.template_fields) - OF_AIRFLOW
    assert arguments_of(operator) == templated | set(NOT_TEMPLATED.get(operator, ()))
    assert len(operator.template_fields) == len(set(operator.template_fields))


# How a DAG file gives a task the output of another one.

HOW = ("plain", "nested", "partial", "expand", "decorated", "override", "mapped")
DECORATORS: dict[type[BaseOperator], Any] = {
    _ChunkDecoratedOperator: lucidworks_chunk_task,
    _PredictDecoratedOperator: lucidworks_predict_task,
}


def with_upstream(operator: type[BaseOperator], name: str, how: str) -> Any:
    """A task, or a mapped one, whose argument is the output of a task "up"."""
    given = {one: value for one, value in CASES[operator][0].items() if one not in {name, "python_callable"}}
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1)):
        up = {name: BaseOperator(task_id="up").output}
        if decorator := DECORATORS.get(operator):
            if how == "override":
                decorated = decorator(**given | {name: "x"})(lambda: "x")
                return decorated.override(task_id="t", **up)().operator
            decorated = decorator(task_id="t", **given | up)(lambda x="a": x)
            return (decorated.expand(x=["a"]) if how == "mapped" else decorated()).operator
        if how == "expand":
            return operator.partial(task_id="t", **given).expand(**up)
        if how == "partial":
            return operator.partial(task_id="t", **given, **up).expand(doc_md=["a", "b"])
        return operator(task_id="t", **given, **({name: {"a": [up[name]]}} if how == "nested" else up))


@pytest.mark.parametrize(
    ("operator", "how"),
    [(operator, how) for operator in CASES for how in (HOW[4:] if operator in DECORATORS else HOW[:4])],
)
def test_an_upstream_task_in_any_argument_is_waited_for(operator: type[BaseOperator], how: str) -> None:
    for name in set(operator.template_fields) - OF_AIRFLOW:
        assert with_upstream(operator, name, how).upstream_task_ids == {"up"}, name


@pytest.mark.parametrize(
    ("operator", "name", "how"),
    [
        (sensor, name, how)
        for sensor in SENSORS
        for name in (*NOT_TEMPLATED[sensor], "soft_fail", "pool", "on_failure_callback")
        for how in ("plain", "nested", "partial")
    ]
    + [(LucidworksChunkOperator, "execution_timeout", how) for how in ("plain", "partial")]
    + [(LucidworksTrainModelOperator, "retry_policy", how) for how in ("plain", "partial")]
    + [(operator, "pool", how) for operator in DECORATORS for how in ("decorated", "mapped")],
)
def test_an_upstream_task_that_airflow_would_ignore_is_refused(
    operator: type[BaseOperator], name: str, how: str
) -> None:
    refused = f"^{name} is the output of task 'up', but is not a template field. Give a"
    with pytest.raises(InputError, match=refused):
        with_upstream(operator, name, how)


@pytest.mark.parametrize("name", ["timeout", "poke_interval"])
def test_a_sensor_is_mapped_over_its_times(name: str) -> None:
    assert with_upstream(LucidworksModelSensor, name, "expand").upstream_task_ids == {"up"}


class Output:
    """As XComArg: what another task returned."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def resolve(self, context: Any) -> Any:
        return self.value


def test_the_output_of_an_upstream_task_is_resolved() -> None:
    task = rendered(LucidworksDeployModelOperator, min_replicas="{{ params.size }}", max_replicas=Output(3))
    assert (task.min_replicas, task.max_replicas) == ("512", 3)
    assert rendered(LucidworksTrainModelOperator, region=Output(None)).region is None
    with pytest.raises(InputError, match="training_data rendered to None"):
        rendered(LucidworksTrainModelOperator, training_data=Output(None))


def test_the_table_has_every_operator_sensor_and_decorator() -> None:
    info = get_provider_info()
    modules = {
        name for kind in ("operators", "sensors") for one in info[kind] for name in one["python-modules"]
    }
    found = [one for name in modules for one in vars(import_module(name)).values() if inspect.isclass(one)]
    public = {one for one in found if one.__module__ in modules and not one.__name__.startswith("_")}
    decorated = {one for one in CASES if one.__name__.startswith("_")}
    assert {one for one in public if issubclass(one, BaseOperator)} == set(CASES) - decorated
    assert len(info["task-decorators"]) == len(decorated)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("operator", "argument", "value"),
    [(operator, *each) for operator, (_, arguments) in CASES.items() for each in arguments.items()],
)
def test_an_argument_that_renders_none_is_absent(
    operator: type[BaseOperator], argument: str, value: Any, native: bool
) -> None:
    if value is REQUIRED:
        with pytest.raises(InputError, match=f"^{argument} rendered to None, and it is required"):
            rendered(operator, native=native, **{argument: NONE})
    else:
        found = getattr(rendered(operator, native=native, **{argument: NONE}), argument)
        assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("None", "None"),
        (" None ", " None "),
        ("{{ params.size }}", "512"),
        ("eu-{{ params.none }}", "eu-None"),
        ("none", "none"),
        ("{{ params.none or 'eu' }}", "eu"),
        (f" {NONE}\n", None),
        ("{% if true %}{{ params['none'] }}{% endif %}", None),
        ({"a": NONE, "b": "None", "c": {"d": NONE}}, {"a": None, "b": "None", "c": {"d": None}}),
        ([NONE, "None", (NONE,), {"a": [NONE]}], [None, "None", (None,), {"a": [None]}]),
    ],
)
def test_a_literal_none_is_a_text_and_a_rendered_one_is_absent(given: Any, becomes: Any) -> None:
    assert rendered(LucidworksDeployModelOperator, region=given).region == becomes


class Regional(LucidworksDeployModelOperator):
    """A user's own, with another default and an argument more."""

    template_fields = (*LucidworksDeployModelOperator.template_fields, "note")

    def __init__(self, *, region: str | None = "eu", note: str | None = "n", **kwargs: Any) -> None:
        super().__init__(region=region, **kwargs)
        self.note = note


def test_a_subclass_has_its_own_defaults() -> None:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1)):
        task = Regional(task_id="t", model_id="m", region=NONE, note=NONE)
    task.render_template_fields({"params": PARAMS})  # type: ignore[typeddict-item]
    assert (task.region, task.note) == ("eu", "n")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"maxChunkSize": NONE}, {}),
        ({"maxChunkSize": None, "overlapSize": "{{ params.size }}"}, {"overlapSize": 512}),
        ('{"maxChunkSize": null}', {}),
        (
            {"approximate": "{{ params.flag }}", "maxChunkSize": "{{ params.size }}"},
            {"approximate": False, "maxChunkSize": 512},
        ),
        ('{"maxChunkSize": "{{ params.size }}"}', {"maxChunkSize": 512}),
        (NONE, None),
        ("{{ params.none | tojson }}", None),
    ],
)
@pytest.mark.parametrize(
    "operator", [LucidworksChunkOperator, LucidworksChunkCorpusOperator, _ChunkDecoratedOperator]
)
def test_a_chunkers_options(operator: type[BaseOperator], given: Any, read: Any) -> None:
    task = rendered(
        operator, chunker="semantic", chunker_config=given, model_config={"dimReductionSize": NONE}
    )
    options = task.chunking_options()
    assert (options.chunker_config, options.model_config) == (read, {})


def sent_by(task: BaseOperator, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The body of a task's first POST."""
    with scripted(lambda path, body: (403, {}) if body else (200, {"models": []})) as server:
        connection = json.loads(os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"])
        connection["extra"] |= {"application_url": server.url, "models_url": server.url}
        monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
        with pytest.raises(LucidworksError):
            task.execute(new_context())
        return server.heard[0]


def test_a_predictions_options(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    task = rendered(
        LucidworksPredictionOperator,
        use_case="rag",
        use_case_config={"memoryUuid": NONE, "extractRelevantContent": "{{ params.flag }}"},
        model_config={"temperature": NONE, "maxTokens": "{{ params.size }}", "apiKey": NONE},
        inputs=[{"id": NONE, "text": "2024", "documents": [{"body": "b", "source": "s", "title": NONE}]}],
    )
    assert sent_by(task, monkeypatch) == {
        "batch": [{"text": "2024", "documents": [{"body": "b", "source": "s"}]}],
        "useCaseConfig": {"extractRelevantContent": False},
        "modelConfig": {"maxTokens": 512},
    }


def test_the_credentials_of_a_training(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    task = rendered(LucidworksTrainModelOperator, training_data_credentials=NONE)
    sent = sent_by(task, monkeypatch)
    assert sent["name"] == "n"
    assert "trainingDataCredentials" not in json.dumps(sent)


def test_an_input_that_is_none_keeps_its_position(emulator: RunningEmulator) -> None:
    task = rendered(LucidworksPredictionOperator, inputs=["a", NONE])
    with pytest.raises(InputError, match=r"inputs\[1\]: It has no text"):
        task.execute(new_context())


# Texts for numbers and booleans

# Of each class, which arguments are read as numbers, and which as booleans.
NUMBERS: dict[type[BaseOperator], str] = {
    LucidworksChunkOperator: "max_text_bytes",
    LucidworksChunkCorpusOperator: "max_requests max_tokens max_in_flight max_text_bytes max_document_bytes "
    "max_reject_ratio timeout poll_interval busy_timeout retention",
    LucidworksPublishShardsOperator: "busy_timeout retention",
    LucidworksPredictionOperator: "batch_size concurrency",
    LucidworksAsyncPredictionOperator: "batch_size timeout poll_interval",
    LucidworksDeployModelOperator: "min_replicas max_replicas timeout",
    LucidworksTrainModelOperator: "timeout poll_interval",
}
BOOLEANS: dict[type[BaseOperator], str] = {
    LucidworksChunkCorpusOperator: "full_refresh prune plan_only keep_raw deletion_vectors",
    LucidworksDeployModelOperator: "deferrable wait_for_completion",
    LucidworksUndeployModelOperator: "deferrable wait_for_completion",
    LucidworksTrainModelOperator: "deferrable wait_for_completion",
    **dict.fromkeys((LucidworksChunkOperator, LucidworksAsyncPredictionOperator, *SENSORS), "deferrable"),
}


def each(
    arguments: dict[type[BaseOperator], str], words: str, *values: object
) -> list[tuple[type[BaseOperator], str, object, str]]:
    """Every argument with the first value, and one of them with the others; more are in test_operator_values."""
    pairs = [(operator, name) for operator, names in arguments.items() for name in names.split()]
    first = [(*pair, values[0], words) for pair in pairs]
    return first + [(*pairs[0], value, words) for value in values[1:]]


@pytest.mark.parametrize(
    ("operator", "argument", "value", "words"),
    each(NUMBERS, "is {!r}", "NaN", "soon", "inf", "0x10", "", True)
    + each(BOOLEANS, "is .*; it must be True or False", "maybe", "", "{{ params.flag }}", 1),
)
def test_what_is_no_number_or_boolean_is_refused(
    emulator: Any, tmp_path: Any, operator: type[BaseOperator], argument: str, value: object, words: str
) -> None:
    with pytest.raises(InputError, match=f"^{argument} {words.format(value)}"):
        made(operator, tmp_path, **{argument: value}).execute(new_context())


def made(operator: type[BaseOperator], folder: Any, **arguments: Any) -> Any:
    """With files in a folder, and a use case that is asynchronous as well."""
    (folder / "source").mkdir(exist_ok=True)
    places = {"result_path": "a.jsonl", "source": "source", "output_uri": "output"}
    given = dict(CASES[operator][0])
    given |= {name: f"{folder}/{place}" for name, place in places.items() if name in given}
    if operator is LucidworksAsyncPredictionOperator:
        given["use_case"] = "passthrough"
    return operator(task_id="t", **given | arguments)


@pytest.mark.parametrize(
    ("text", "deferred"), [("false", False), (" False ", False), ("true", True), ("1", True)]
)
def test_deferrable_as_a_text(emulator: RunningEmulator, tmp_path: Any, text: str, deferred: bool) -> None:
    texts = {"deferrable": text, "poll_interval": "0.2", "timeout": "20", "max_text_bytes": "1000"}
    task = made(LucidworksChunkOperator, tmp_path, **texts)
    if deferred:
        with pytest.raises(TaskDeferred) as caught:
            task.execute(new_context())
        assert caught.value.timeout is not None
        assert timedelta(seconds=0) < caught.value.timeout - timedelta(minutes=5) <= timedelta(seconds=20)
    else:
        assert task.execute(new_context())["documents"] == 1


def test_a_corpus_with_texts_for_everything(emulator: RunningEmulator, tmp_path: Any) -> None:
    texts = {"max_requests": "5", "max_tokens": "100000", "max_reject_ratio": "0.5", "busy_timeout": "60"}
    texts |= {"max_in_flight": "8", "timeout": "60", "poll_interval": "0.2", "max_text_bytes": "100000"}
    texts |= {"max_document_bytes": " 100000 ", "retention": "86400"}
    texts |= {"deletion_vectors": "false", "keep_raw": "False", "prune": "0"}
    source = [{"id": "2024", "text": "A text."}]
    delta = made(LucidworksChunkCorpusOperator, tmp_path, **texts, source=source).execute(new_context())
    assert (delta["documents"], delta["rejected"]) == (1, 0)
    table = read_table(f"{tmp_path}/output/chunks")
    assert table is not None
    assert "deletionVectors" not in table.writer_features
    assert not (tmp_path / "output" / "raw").exists()


@pytest.mark.parametrize("operator", SENSORS)
def test_the_times_of_a_sensor(operator: type[BaseOperator]) -> None:
    sensor: Any = operator(task_id="t", poke_interval="1e1", timeout=" 60 ", **CASES[operator][0])
    assert (sensor.poke_interval, sensor.poll_interval, sensor.timeout) == (10.0, 10.0, 60.0)
    for name in ("poke_interval", "timeout"):
        words = f"^{name} is 'soon'; it must be a timedelta or a number of seconds"
        with pytest.raises(InputError, match=words):
            operator(task_id="t", **{name: "soon"}, **CASES[operator][0])
