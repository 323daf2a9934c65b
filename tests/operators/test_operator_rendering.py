# SPDX-License-Identifier: Apache-2.0
"""What a template renders to: nothing, a number, a truth value. The same in every operator, sensor and decorator."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseOperator

from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import LucidworksChunkDocumentsOperator
from lucidworks_provider.operators.models import LucidworksDeployModelOperator, LucidworksTrainModelOperator
from lucidworks_provider.operators.values import dictionary, seconds, share, switch, whole
from lucidworks_provider.operators.waiting import execution_limit
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor

NONE, SIZE = "{{ params.none }}", "{{ params.size }}"
CONTEXT: Any = {"params": {"none": None, "size": 256, "word": "None"}}


def rendered(operator: Any) -> Any:
    operator.render_template_fields(CONTEXT)
    return operator


def subclasses(kind: type) -> set[type]:
    return {kind}.union(*(subclasses(one) for one in kind.__subclasses__()))


def test_a_template_that_renders_none_is_absent() -> None:
    train = rendered(
        LucidworksTrainModelOperator(
            task_id="t",
            name="n",
            model_type="m",
            region=NONE,
            training_data={"catalog": "gs://b/c", "signals": NONE, "more": [NONE, "a"]},
        )
    )
    assert train.region is None
    assert train.training_data == {"catalog": "gs://b/c", "signals": None, "more": [None, "a"]}
    assert dictionary(train.training_data, "training_data") == {"catalog": "gs://b/c", "more": [None, "a"]}
    deploy = rendered(LucidworksDeployModelOperator(task_id="t", model_id="m", region="{{ params['none'] }}"))
    assert deploy.region is None
    chunk = rendered(
        LucidworksChunkOperator(
            task_id="t",
            chunker="semantic",
            model_id="gte-small",
            result_path="/a.jsonl",
            text="{% if params.none %}x{% else %}None{% endif %}",
            data_type=NONE,
            chunker_config={"maxChunkSize": SIZE, "overlapSize": NONE},
        )
    )
    assert (chunk.text, chunk.data_type) == (None, None)
    assert chunk._options().as_json()["chunker_config"] == {"maxChunkSize": 256}


def test_a_literal_none_is_a_text() -> None:
    chunk = rendered(
        LucidworksChunkOperator(
            task_id="t",
            chunker="sentence",
            model_id="None",
            result_path="/a.jsonl",
            documents=[{"text": "None"}],
        )
    )
    assert (chunk.model_id, chunk.documents) == ("None", [{"text": "None"}])


@pytest.mark.parametrize(
    "kind",
    sorted(
        {
            one
            for one in subclasses(BaseOperator)
            if one.__module__.startswith("lucidworks_provider.") and "execute" in vars(one)
        },
        key=lambda kind: kind.__name__,
    ),
    ids=lambda kind: kind.__name__,
)
def test_every_operator_has_the_rule(kind: Any) -> None:
    operator = kind.__new__(kind)
    operator.__dict__["dag"] = None
    environment = BaseOperator(task_id="t").get_template_env()
    for template, value in ((NONE, None), ([NONE], [None]), ({"a": NONE}, {"a": None}), ("None", "None")):
        assert operator.render_template(template, CONTEXT, environment) == value


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("false", False),
        ("False", False),
        (" true ", True),
        ("1", True),
        ("0", False),
        ("", False),
        (None, False),
    ],
)
def test_truth_values(given: Any, value: bool) -> None:
    assert switch(given, "prune") is value
    sensor = LucidworksDeploymentSensor(task_id="t", deployment_id="d", deferrable=given)
    assert sensor._in_triggerer is value


@pytest.mark.parametrize("given", ["no", "off", "2", 2, 0, 1.0, [], "{{ x }}"])
def test_what_is_no_truth_value(given: Any) -> None:
    with pytest.raises(InputError, match=r"deferrable is .*give True or False"):
        _ = LucidworksJobSensor(task_id="t", job_id="j", deferrable=given)._in_triggerer


@pytest.mark.parametrize(
    ("convert", "given", "value"),
    [
        (seconds, "30", 30.0),
        (seconds, " 0.5 ", 0.5),
        (seconds, "1e3", 1000.0),
        (seconds, timedelta(minutes=1), 60.0),
        (share, "0.05", 0.05),
        (share, "1", 1.0),
        (share, 0, 0.0),
    ],
)
def test_numbers(convert: Any, given: Any, value: float) -> None:
    assert convert(given, "x") == value


@pytest.mark.parametrize(
    ("convert", "given"),
    [
        *[(seconds, one) for one in ("0", "-1", "nan", "inf", "0x10", "1_000", "", "soon", True, None, 1e12)],
        *[(share, one) for one in ("1.1", "-0.1", "5%", "nan", True, None)],
    ],
)
def test_what_is_no_number(convert: Any, given: Any) -> None:
    with pytest.raises(InputError, match="x is "):
        convert(given, "x")


def test_whole_numbers() -> None:
    assert [whole(one, "x", 0) for one in (0, "7", " 512 ", "+3")] == [0, 7, 512, 3]
    for bad in (-1, "-1", 1.0, "1.0", "1e3", True, None, "", "x", "9" * 5000):
        with pytest.raises(InputError, match=r"x is .*whole number of at least 0"):
            whole(bad, "x", 0)
    with pytest.raises(InputError, match="from 1 to 8"):
        whole("9", "x", 1, 8)


def test_a_corpus_takes_texts_for_numbers_and_truth_values() -> None:
    corpus = LucidworksChunkDocumentsOperator(
        task_id="t",
        source="/a",
        output="/b",
        chunker="sentence",
        model_id="m",
        max_reject_ratio="0.5",  # type: ignore[arg-type]
        max_in_flight="8",  # type: ignore[arg-type]
        timeout="60",  # type: ignore[arg-type]
        keep_raw="false",  # type: ignore[arg-type]
        json_lines="true",  # type: ignore[arg-type]
        max_submissions=NONE,
    )
    made = rendered(corpus)._corpus()
    assert (made.max_reject_ratio, made.rules.max_in_flight, made.rules.timeout) == (0.5, 8, 60.0)
    assert (made.keep_raw, made.json_lines, made.max_submissions) == (False, True, None)


STARTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("limit", "after"),
    [
        (timedelta(seconds=20), 18.0),
        (timedelta(minutes=2), 108.0),
        (timedelta(minutes=5), 270.0),
        (timedelta(hours=24), 86_370.0),
        (None, None),
    ],
)
def test_a_wait_ends_a_little_before_execution_timeout(limit: timedelta | None, after: float | None) -> None:
    found = execution_limit(SimpleNamespace(start_date=STARTED), limit)
    assert found == (after if after is None else STARTED.timestamp() + after)
    assert execution_limit(SimpleNamespace(start_date=None), limit) is None
    assert execution_limit(SimpleNamespace(), limit) is None


@pytest.mark.parametrize(
    ("timeout", "execution_timeout", "left", "named"),
    [
        (3600, timedelta(seconds=20), 18.0, "execution_timeout=20 s"),
        (5, timedelta(seconds=20), 5.0, "timeout=5 s"),
        ("5", None, 5.0, "timeout=5 s"),
    ],
)
def test_the_smaller_limit_counts_and_is_named(
    timeout: Any, execution_timeout: timedelta | None, left: float, named: str
) -> None:
    operator = LucidworksDeployModelOperator(
        task_id="t", model_id="m", timeout=timeout, execution_timeout=execution_timeout
    )
    now = datetime.now(UTC)
    context: Any = {"ti": SimpleNamespace(start_date=now)}
    assert operator._deadline(context) - now.timestamp() == pytest.approx(left, abs=1)
    ended: Any = {"ti": SimpleNamespace(start_date=now - timedelta(seconds=left))}
    assert operator._waited(ended).startswith(named)
