# SPDX-License-Identifier: Apache-2.0
"""Texts of another task in a DAG with ``render_template_as_native_obj``: as a task's output, and in templates."""

from datetime import datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator
from operator_service import hash_of, new_context
from test_operator_templates import Output

from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.models import LucidworksDeployModelOperator
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

TEXTS = ["A tent \N{CAMPING} for two", "2024", "true", "Zelt für zwei", "[1]"]
PULLED = "{{ ti.xcom_pull('read') }}"
AS_JSON = "{{ ti.xcom_pull('read') | tojson }}"


def run(operator: type[BaseOperator], returned: Any, *, native: bool, **arguments: Any) -> Any:
    """Render and execute a task; another one has returned a value."""
    context: Any = new_context(state_store=False)
    vars(context["ti"]).update(xcom_pull=lambda *_, **__: returned, xcom_push=lambda *_, **__: None)
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1), render_template_as_native_obj=native):
        task: Any = operator(task_id="t", **arguments)
    task.render_template_fields(context)
    return task.execute(context)


def predicted(emulator: RunningEmulator, returned: Any, inputs: Any, *, native: bool) -> str | None:
    """The hash of the texts that were sent."""
    given = {"use_case": "embedding", "model_id": "gte-small", "inputs": inputs}
    run(LucidworksPredictionOperator, returned, native=native, **given)
    [record] = [one for one in emulator.state.log if one.endpoint == "predict"]
    return record.text_sha256


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("inputs", [Output(TEXTS), AS_JSON], ids=["output", "tojson"])
def test_a_list_of_texts(emulator: RunningEmulator, inputs: Any, native: bool) -> None:
    assert predicted(emulator, TEXTS, inputs, native=native) == hash_of(*TEXTS)


def test_a_list_without_tojson(emulator: RunningEmulator) -> None:
    assert predicted(emulator, TEXTS, PULLED, native=True) == hash_of(*TEXTS)
    with pytest.raises(InputError, match=r"use `\| tojson`"):
        predicted(emulator, TEXTS, PULLED, native=False)


@pytest.mark.parametrize("inputs", [Output(TEXTS), [Output(one) for one in TEXTS]], ids=["list", "elements"])
def test_outputs_are_right_in_every_dag(emulator: RunningEmulator, inputs: Any) -> None:
    assert predicted(emulator, None, inputs, native=True) == hash_of(*TEXTS)


@pytest.mark.parametrize(
    ("text", "given", "native", "said"),
    [
        *[(text, "output", native, None) for text in TEXTS for native in (True, False)],
        *[(text, PULLED, False, None) for text in TEXTS],
        *[(text, AS_JSON, True, None) for text in [*TEXTS, "None", "'quoted'", '"quoted"']],
        ("A tent \N{CAMPING} for two", PULLED, True, None),
        # Native rendering reads Python literals.
        (
            "2024",
            PULLED,
            True,
            r"^text is 2024 \(int\), which is not text; .* render_template_as_native_obj .* `\| tojson`",
        ),
        ("[1]", PULLED, True, r"^text is \[1\] \(list\)"),
        ("None", PULLED, True, "neither is given"),
        ("None", PULLED, False, "neither is given"),
    ],
)
def test_one_text(
    emulator: RunningEmulator, tmp_path: Any, text: str, given: str, native: bool, said: str | None
) -> None:
    arguments = {
        "chunker": "sentence",
        "model_id": "gte-small",
        "result_path": (tmp_path / "chunks.jsonl").as_uri(),
        "text": Output(text) if given == "output" else given,
        "deferrable": False,
    }
    if said:
        with pytest.raises(InputError, match=said):
            run(LucidworksChunkOperator, text, native=native, **arguments)
        return
    emulator.state.settings = emulator.state.settings.patched({"pending_polls": 0})
    run(LucidworksChunkOperator, text, native=native, **arguments)
    [record] = [one for one in emulator.state.log if one.endpoint == "submit"]
    assert record.text_sha256 == hash_of(text)


def test_an_element_that_native_rendering_has_decoded(emulator: RunningEmulator) -> None:
    with pytest.raises(InputError, match=r"^inputs\[1\] is 2024 \(int\), which is not text; .* `\| tojson`"):
        predicted(emulator, "2024", ["a", PULLED], native=True)
    assert predicted(emulator, "2024", ["a", AS_JSON], native=True) == hash_of("a", "2024")


def test_pairs_are_joined_and_halves_are_left() -> None:
    context: Any = {"texts": {"\N{CAMPING}": ["\N{CAMPING}", "\ud83c", 1, None]}}
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1), render_template_as_native_obj=True):
        task: Any = LucidworksDeployModelOperator(
            task_id="t", model_id="m", config="{{ texts | tojson | replace('null', 'None') }}"
        )
    task.render_template_fields(context)
    assert task.config == {"\N{CAMPING}": ["\N{CAMPING}", "\ud83c", 1, None]}
