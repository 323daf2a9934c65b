# SPDX-License-Identifier: Apache-2.0
"""
What a type checker has to refuse. `make types` reads this file: an ``ignore`` without an error is an error.

Nothing here is run.
"""

from __future__ import annotations

from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook, LucidworksHook
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

LucidworksChunkOperator(
    task_id="t",
    chunker="sentence",
    model_id="m",
    result_path="/r.parquet",
    defferable=True,  # type: ignore[call-arg]
)
LucidworksChunkOperator(
    task_id="t",
    chunker="sentence",
    model_id="m",
    result_path="/r.parquet",
    on_mismatch="ignore",  # type: ignore[arg-type]
)
LucidworksChunkCorpusOperator(
    task_id="t",
    source="/s",
    output_uri="/o",
    chunker="sentence",
    model_id="m",
    defferable=True,  # type: ignore[call-arg]
)
LucidworksPublishShardsOperator(task_id="t", staged=[], output_uri="/o", defferable=True)  # type: ignore[call-arg]
LucidworksPredictionOperator(task_id="t", use_case="ner", model_id="m", inputs=[], defferable=True)  # type: ignore[call-arg]
LucidworksAsyncPredictionOperator(
    task_id="t",
    use_case="ner",
    model_id="m",
    inputs=[],
    result_path="/r.parquet",
    defferable=True,  # type: ignore[call-arg]
)
LucidworksTrainModelOperator(
    task_id="t",
    name="n",
    model_type="m",
    training_data={},
    defferable=True,  # type: ignore[call-arg]
)
LucidworksDeployModelOperator(task_id="t", model_id="m", if_ambiguous="guess")  # type: ignore[arg-type]
LucidworksDeployModelOperator(task_id="t", model_id="m", defferable=True)  # type: ignore[call-arg]
LucidworksUndeployModelOperator(task_id="t", deployment_id="d", defferable=True)  # type: ignore[call-arg]
LucidworksJobSensor(task_id="t", job_id="j", defferable=True)  # type: ignore[call-arg]
LucidworksModelSensor(task_id="t", model_id="m", defferable=True)  # type: ignore[call-arg]
LucidworksDeploymentSensor(task_id="t", deployment_id="d", retires=3)  # type: ignore[call-arg]
LucidworksAuthHook(lucidworks_con_id="c")  # type: ignore[call-arg]
LucidworksHook(lucidworks_con_id="c")  # type: ignore[call-arg]
lucidworks_chunk_task(chunker="sentence", model_id="m", result_path="/r.parquet", defferable=True)  # type: ignore[call-arg]
lucidworks_predict_task(use_case="ner", model_id="m", concurency=2)  # type: ignore[call-arg]
