# SPDX-License-Identifier: Apache-2.0
"""
### Train, deploy, embed, undeploy

Trains an embedding model on a catalogue and its signals, deploys it, computes vectors with it, and undeploys it
even if the vectors fail. A retry finds the model and the deployment of an earlier try. If `deploy` itself fails, e.g.
by its timeout, the teardown is skipped: the deployment may exist and must be deleted.

The connection needs a Customer ID. `training_data` is read by Lucidworks with the service account of the connection
`google_cloud_training_data` (any connection with a `keyfile_dict`, or with the key as its password).
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag

from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksTrainModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")
# The day that a run is for; a run that was triggered by hand may have no logical date.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


@dag(
    schedule="@monthly",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_policy": LucidworksRetryPolicy(),
    },
    doc_md=__doc__,
    tags=["example", "lucidworks"],
)
def train_and_embed() -> None:
    """A model for a month."""
    train = LucidworksTrainModelOperator(
        task_id="train",
        # Trained once for each name and configuration: the day makes it a model of its own.
        name=f"catalogue {DAY}",
        model_type="ecommerce-rnn",
        region="us-southcarolina",
        training_data={
            "catalog": "gs://training-data/catalogue.parquet",
            "signals": "gs://training-data/signals.parquet",
        },
        config={"dataset_config": "mlp_ecommerce", "trainer_config": "mlp_ecommerce"},
        credentials_conn_id="google_cloud_training_data",
        deferrable=True,
        poll_interval=60,
        timeout=timedelta(hours=12),
    )
    deploy = LucidworksDeployModelOperator(
        task_id="deploy",
        model_id=train.output,
        region="us-southcarolina",
        deferrable=True,
        poll_interval=15,
    )
    embed = LucidworksPredictionOperator(
        task_id="embed",
        use_case="embedding",
        use_case_config={"dataType": "passage"},
        # The deployment's id is the MODEL_ID of predictions, not the model's.
        model_id=deploy.output,
        inputs=["A tent for two", "A stove for the tent", "A lamp for the night"],
        result_path=f"{OUTPUT}/{DAY}/vectors.parquet",
    )
    undeploy = LucidworksUndeployModelOperator(
        task_id="undeploy",
        deployment_id=deploy.output,
        deferrable=True,
        poll_interval=15,
    )
    deploy >> embed >> undeploy.as_teardown(setups=deploy)


train_and_embed()
