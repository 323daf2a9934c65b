# SPDX-License-Identifier: Apache-2.0
"""The names that DAG authors import, and the error tree: a change of one breaks a user's DAG."""

import inspect
from importlib import import_module
from pkgutil import resolve_name
from typing import Any

import pytest

from lucidworks_provider import errors

# Names by module.
PUBLIC = {
    "hooks.lucidworks": "LucidworksAuthHook LucidworksHook",
    "operators.chunking": "LucidworksChunkOperator",
    "operators.corpus": "LucidworksChunkCorpusOperator LucidworksPublishShardsOperator",
    "corpus": "changes open_dataset open_documents version_of",
    "corpus.shards": "read_listing write_listings",
    "links": "LucidworksReportLink LucidworksResultLink",
    "assets": "sanitize_uri",
    "retry_policy": "LucidworksRetryPolicy",
    "operators.prediction": "LucidworksPredictionOperator LucidworksAsyncPredictionOperator",
    "operators.models": (
        "LucidworksTrainModelOperator LucidworksDeployModelOperator LucidworksUndeployModelOperator"
    ),
    "sensors.jobs": "LucidworksJobSensor",
    "sensors.models": "LucidworksModelSensor LucidworksDeploymentSensor",
    "triggers": (
        "LucidworksJobsTrigger LucidworksStateTrigger LucidworksModelEventTrigger "
        "LucidworksDeploymentEventTrigger"
    ),
    "client.client": "LucidworksClient",
    "client.settings": "LucidworksSettings parse_settings",
    "client.models": "Model Deployment",
    "client.model_specs": "TrainingSpec DeploymentSpec",
    "decorators.predict": "lucidworks_predict_task",
    "decorators.chunk": "lucidworks_chunk_task",
    "client.use_cases": (
        "embedding classification passthrough rag summarization keyword_extraction ner faq_enrichment "
        "standalone_query_rewriter PredictionOptions"
    ),
    "emulator": "EmulatorSettings create_app running",
    "get_provider_info": "get_provider_info",
}
# Each error with what it is besides, and whether the same call may succeed later with nothing changed.
ERRORS = {
    "LucidworksError": ("Exception", False),
    "ConfigurationError": ("LucidworksError ValueError", False),
    "InputError": ("LucidworksError ValueError", False),
    "TransportError": ("LucidworksError", True),
    "NotSentError": ("TransportError", True),
    "AcquireTimeoutError": ("NotSentError", True),
    "ResponseError": ("LucidworksError", False),
    "RequestRefusedError": ("ResponseError", False),
    "TokenRefusedError": ("ResponseError", True),
    "ForbiddenError": ("ResponseError", False),
    "UnknownResourceError": ("ResponseError", False),
    "RateLimitError": ("ResponseError", True),
    "ServiceError": ("ResponseError", True),
    "MalformedResponseError": ("ResponseError", True),
    "NoJobIdError": ("MalformedResponseError", True),
    "ContentEncodingError": ("ResponseError", False),
    "AuthenticationError": ("ResponseError", False),
    "TokenError": ("LucidworksError", True),
    "TokenStoreError": ("TokenError", True),
    "TokenContestedError": ("TokenError", True),
    "StorageError": ("LucidworksError", True),
    "OutputBusyError": ("LucidworksError", True),
    "AmbiguousResourceError": ("LucidworksError", False),
    "BudgetExceededError": ("LucidworksError", False),
    "TooManyRejectsError": ("LucidworksError", True),
    "JobError": ("LucidworksError", False),
    "JobFailedError": ("JobError", False),
    "EmptyResultError": ("JobError", False),
    "JobTimeoutError": ("JobError", True),
    "ResultGoneError": ("JobError", True),
    "SubmissionUnknownError": ("JobError", True),
    "StorageNotSharedError": ("JobError", False),
}
# Public functions and methods with their parameters; a default may change, a name may not.
SIGNATURES = {
    "hooks.lucidworks.LucidworksAuthHook": "lucidworks_conn_id logger_name",
    "hooks.lucidworks.LucidworksAuthHook.get_settings": "",
    "hooks.lucidworks.LucidworksAuthHook.aget_settings": "",
    "hooks.lucidworks.LucidworksAuthHook.get_token": "scope refused",
    "hooks.lucidworks.LucidworksAuthHook.aget_token": "scope refused",
    "hooks.lucidworks.LucidworksAuthHook.invalidate": "token scope",
    "hooks.lucidworks.LucidworksAuthHook.get_conn": "scope",
    "hooks.lucidworks.LucidworksAuthHook.aget_conn": "scope",
    "hooks.lucidworks.LucidworksAuthHook.get_auth": "scope",
    "hooks.lucidworks.LucidworksAuthHook.aget_auth": "scope",
    "hooks.lucidworks.LucidworksAuthHook.test_connection": "",
    "hooks.lucidworks.LucidworksHook.call": "call attempts",
    "hooks.lucidworks.LucidworksHook.acall": "call attempts",
    "hooks.lucidworks.LucidworksHook.rate_limit": "",
    "hooks.lucidworks.LucidworksHook.shared_client": "connections",
    "hooks.lucidworks.LucidworksHook.close": "",
    "operators.corpus.LucidworksChunkCorpusOperator": (
        "source output_uri chunker model_id chunker_config model_config data_type listing id_column "
        "text_column encoding csv_delimiter csv_quotechar csv_escapechar csv_columns full_refresh prune "
        "plan_only max_requests max_tokens max_reject_ratio on_truncated on_mismatch on_missing_chunks "
        "on_busy busy_timeout keep_raw deletion_vectors retention report_url max_in_flight timeout "
        "poll_interval max_text_bytes max_document_bytes lucidworks_conn_id kwargs"
    ),
    "operators.corpus.LucidworksChunkCorpusOperator.execute": "context",
    "operators.corpus.LucidworksPublishShardsOperator": (
        "staged output_uri on_busy busy_timeout retention report_url kwargs"
    ),
    "operators.corpus.LucidworksPublishShardsOperator.execute": "context",
    "operators.chunking.LucidworksChunkOperator": (
        "chunker model_id result_path text documents id_column text_column columns chunker_config "
        "model_config data_type max_text_bytes max_reject_ratio on_invalid on_empty on_mismatch "
        "lucidworks_conn_id deferrable poll_interval timeout on_unknown_submission max_requests kwargs"
    ),
    "operators.chunking.LucidworksChunkOperator.execute": "context",
    # It is in the database of a deferred task: an upgrade meets what an older version wrote.
    "operators.chunking.LucidworksChunkOperator.execute_complete": "context event deadline",
    "operators.base.JobOperator": (
        "result_path lucidworks_conn_id deferrable poll_interval timeout on_unknown_submission max_requests "
        "kwargs"
    ),
    "operators.base.JobOperator.execute_complete": "context event deadline",
    "operators.prediction._Predicting": (
        "use_case model_id inputs id_column text_column columns use_case_config model_config "
        "api_key_conn_id batch_size max_reject_ratio on_invalid on_empty on_mismatch kwargs"
    ),
    "operators.prediction.LucidworksPredictionOperator": (
        "use_case model_id inputs id_column text_column columns use_case_config model_config "
        "api_key_conn_id result_path batch_size max_reject_ratio on_invalid on_empty on_mismatch "
        "concurrency max_requests max_tokens lucidworks_conn_id kwargs"
    ),
    "operators.models._ModelOperator": (
        "lucidworks_conn_id wait_for_completion deferrable poll_interval timeout kwargs"
    ),
    "operators.models._ModelOperator.execute_complete": "context event",
    "operators.models.LucidworksTrainModelOperator": (
        "name model_type training_data region config credentials_conn_id training_data_credentials "
        "if_ambiguous lucidworks_conn_id wait_for_completion deferrable poll_interval timeout kwargs"
    ),
    "operators.models.LucidworksDeployModelOperator": (
        "model_id region config min_replicas max_replicas if_ambiguous lucidworks_conn_id "
        "wait_for_completion deferrable poll_interval timeout kwargs"
    ),
    "operators.models.LucidworksUndeployModelOperator": (
        "deployment_id lucidworks_conn_id wait_for_completion deferrable poll_interval timeout kwargs"
    ),
    "operators.models.LucidworksUndeployModelOperator.execute_complete": "context event",
    "sensors.models._StateSensor": "target_state kwargs",
    "sensors.models._StateSensor.execute_complete": "context event",
    "triggers.LucidworksStateTrigger": (
        "lucidworks_conn_id kind resource_id target poll_interval deadline model_id"
    ),
    "sensors.jobs.LucidworksJobSensor": (
        "job_id kind result_path lucidworks_conn_id deferrable poke_interval timeout kwargs"
    ),
    "sensors.jobs.LucidworksJobSensor.execute_complete": "context event deadline",
    "triggers.LucidworksJobsTrigger": "kind lucidworks_conn_id folder nonce poll_interval deadline",
    "client.use_cases.list_use_cases": "",
    "client.predictions.predict": "options inputs",
    "client.predictions.submit_prediction": "options inputs",
    "client.predictions.tokenize": "options inputs",
    "client.predictions.preview_prompt": "options inputs",
    "client.predictions.predict_items": "options items",
    "client.predictions.submit_items": "options items",
    "client.predictions.get_prediction": "job_id options",
    "client.chunking.submit_chunking": "text chunker model_id data_type chunker_config model_config",
    "client.chunking.submit_text": "options text",
    "client.chunking.get_chunking": "job_id",
    "client.jobs.poll_job": "kind job_id",
    "client.models.list_models": "",
    "client.models.list_deployments": "",
    "client.models.get_model": "model_id metrics",
    "client.models.create_model": "training credentials",
    "client.models.list_model_deployments": "model_id",
    "client.models.find_deployment": "deployment_id model_id",
    "client.models.create_deployment": "placement",
    "client.models.delete_deployment": "deployment_id",
}


@pytest.mark.parametrize(("module", "names"), PUBLIC.items())
def test_modules(module: str, names: str) -> None:
    loaded = import_module(f"lucidworks_provider.{module}")
    assert [name for name in names.split() if not hasattr(loaded, name)] == []


@pytest.mark.parametrize(("name", "expected"), SIGNATURES.items(), ids=SIGNATURES)
def test_signatures(name: str, expected: str) -> None:
    found = resolve_name(f"lucidworks_provider.{name}")
    # Airflow wraps the constructors of operators.
    function = inspect.unwrap(found.__init__ if inspect.isclass(found) else found)
    parameters = list(inspect.signature(function).parameters)
    assert [one for one in parameters if one != "self"] == expected.split()


def test_the_error_tree() -> None:
    tree = {
        name: (" ".join(base.__name__ for base in one.__bases__), one.retryable)
        for name, one in vars(errors).items()
        if inspect.isclass(one) and issubclass(one, Exception)
    }
    assert tree == ERRORS
    for name in tree:
        assert name in (errors.__doc__ or ""), f"{name} is not in the picture of the tree"


def test_templated_fields() -> None:
    from lucidworks_provider.operators.chunking import LucidworksChunkOperator

    assert set(LucidworksChunkOperator.template_fields) == {
        *("chunker", "model_id", "text", "documents", "chunker_config", "model_config"),
        *("id_column", "text_column", "columns"),
        *("data_type", "result_path", "max_requests", "lucidworks_conn_id"),
        *("max_text_bytes", "max_reject_ratio", "on_invalid", "on_empty", "on_mismatch"),
        *("deferrable", "poll_interval", "timeout", "on_unknown_submission"),
    }
    assert set(LucidworksChunkOperator.template_fields_renderers) <= set(
        LucidworksChunkOperator.template_fields
    )


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("LucidworksStateTrigger", {"kind": "model", "resource_id": "m", "target": "ready"}),
        ("LucidworksJobsTrigger", {"kind": "chunking", "folder": "f", "nonce": "n"}),
    ],
)
def test_what_a_trigger_writes_is_what_it_reads(name: str, given: dict[str, Any]) -> None:
    given |= {"lucidworks_conn_id": "c", "poll_interval": 1.0, "deadline": 2.0}
    path = f"lucidworks_provider.triggers.{name}"
    assert resolve_name(path)(**given).serialize() == (path, given)
