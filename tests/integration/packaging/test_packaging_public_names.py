# SPDX-License-Identifier: Apache-2.0
"""The names that DAG authors import, and the error tree: changing one of them breaks somebody's DAG."""

from __future__ import annotations

import inspect
from importlib import import_module

import pytest

from lucidworks_provider import errors

PUBLIC = {
    "lucidworks_provider.hooks.lucidworks": ["LucidworksAuthHook", "LucidworksHook"],
    "lucidworks_provider.operators.chunking": ["LucidworksChunkOperator"],
    "lucidworks_provider.operators.corpus": [
        "LucidworksChunkCorpusOperator",
        "LucidworksPublishShardsOperator",
    ],
    "lucidworks_provider.corpus": ["changes", "open_dataset", "open_documents", "version_of"],
    "lucidworks_provider.corpus.shards": ["read_listing", "write_listings"],
    "lucidworks_provider.links": ["LucidworksReportLink", "LucidworksResultLink"],
    "lucidworks_provider.assets": ["sanitize_uri"],
    "lucidworks_provider.retry_policy": ["LucidworksRetryPolicy"],
    "lucidworks_provider.operators.prediction": [
        "LucidworksPredictionOperator",
        "LucidworksAsyncPredictionOperator",
    ],
    "lucidworks_provider.operators.models": [
        *("LucidworksTrainModelOperator", "LucidworksDeployModelOperator", "LucidworksUndeployModelOperator"),
    ],
    "lucidworks_provider.sensors.jobs": ["LucidworksJobSensor"],
    "lucidworks_provider.sensors.models": ["LucidworksModelSensor", "LucidworksDeploymentSensor"],
    "lucidworks_provider.triggers": [
        *("LucidworksJobsTrigger", "LucidworksStateTrigger"),
        *("LucidworksModelEventTrigger", "LucidworksDeploymentEventTrigger"),
    ],
    "lucidworks_provider.client.client": ["LucidworksClient"],
    "lucidworks_provider.client.settings": ["LucidworksSettings", "parse_settings"],
    "lucidworks_provider.client.models": ["Model", "Deployment"],
    "lucidworks_provider.client.model_specs": ["TrainingSpec", "DeploymentSpec"],
    "lucidworks_provider.decorators.predict": ["lucidworks_predict_task"],
    "lucidworks_provider.decorators.chunk": ["lucidworks_chunk_task"],
    "lucidworks_provider.client.use_cases": [
        *("embedding", "classification", "passthrough", "rag", "summarization", "keyword_extraction", "ner"),
        *("faq_enrichment", "standalone_query_rewriter", "PredictionOptions"),
    ],
    "lucidworks_provider.emulator": ["EmulatorSettings", "create_app", "running"],
    "lucidworks_provider.get_provider_info": ["get_provider_info"],
}
# Each error with what it is besides, and whether the same call may succeed later with nothing changed.
ERRORS = {
    "LucidworksError": ("Exception", False),
    "ConfigurationError": ("LucidworksError ValueError", False),
    "InputError": ("LucidworksError ValueError", False),
    "TransportError": ("LucidworksError", True),
    "NotSentError": ("TransportError", True),
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
# Public methods with their parameters; a default may change, a name may not.
METHODS = {
    ("lucidworks_provider.hooks.lucidworks", "LucidworksAuthHook"): {
        "__init__": "lucidworks_conn_id kwargs",
        "get_settings": "",
        "aget_settings": "",
        "get_token": "scope refused",
        "aget_token": "scope refused",
        "invalidate": "token scope",
        "get_conn": "scope",
        "aget_conn": "scope",
        "get_auth": "scope",
        "aget_auth": "scope",
        "test_connection": "",
    },
    ("lucidworks_provider.hooks.lucidworks", "LucidworksHook"): {
        **dict.fromkeys(("call", "acall"), "call attempts"),
        "rate_limit": "",
        "shared_client": "connections",
        "close": "",
    },
    ("lucidworks_provider.operators.corpus", "LucidworksChunkCorpusOperator"): {
        "__init__": "source output_uri chunker model_id chunker_config model_config data_type listing id_column "
        "text_column encoding csv_delimiter csv_quotechar csv_escapechar csv_columns full_refresh prune plan_only "
        "max_requests max_tokens max_reject_ratio on_truncated on_mismatch "
        "on_missing_chunks on_busy busy_timeout keep_raw deletion_vectors retention report_url max_in_flight timeout "
        "poll_interval max_text_bytes max_document_bytes lucidworks_conn_id kwargs",
        "execute": "context",
    },
    ("lucidworks_provider.operators.corpus", "LucidworksPublishShardsOperator"): {
        "__init__": "staged output_uri on_busy busy_timeout retention report_url kwargs",
        "execute": "context",
    },
    ("lucidworks_provider.operators.chunking", "LucidworksChunkOperator"): {
        "__init__": (
            "chunker model_id result_path text documents id_column text_column columns chunker_config model_config "
            "data_type max_text_bytes max_reject_ratio on_invalid on_empty on_mismatch lucidworks_conn_id deferrable "
            "poll_interval timeout on_unknown_submission "
            "max_requests kwargs"
        ),
        "execute": "context",
        # Both are in the database of a deferred task: an upgrade meets what an older version wrote.
        "execute_complete": "context event deadline",
    },
    ("lucidworks_provider.operators.base", "JobOperator"): {
        "__init__": (
            "result_path lucidworks_conn_id deferrable poll_interval timeout on_unknown_submission "
            "max_requests kwargs"
        ),
        "execute_complete": "context event deadline",
    },
    ("lucidworks_provider.operators.prediction", "_Predicting"): {
        "__init__": (
            "use_case model_id inputs id_column text_column columns use_case_config model_config "
            "api_key_conn_id batch_size max_reject_ratio on_invalid on_empty on_mismatch kwargs"
        ),
    },
    ("lucidworks_provider.operators.prediction", "LucidworksPredictionOperator"): {
        "__init__": (
            "use_case model_id inputs id_column text_column columns use_case_config model_config "
            "api_key_conn_id result_path batch_size max_reject_ratio on_invalid on_empty on_mismatch "
            "concurrency max_requests max_tokens lucidworks_conn_id kwargs"
        ),
    },
    ("lucidworks_provider.operators.models", "_ModelOperator"): {
        "__init__": "lucidworks_conn_id wait_for_completion deferrable poll_interval timeout kwargs",
        "execute_complete": "context event",
    },
    ("lucidworks_provider.operators.models", "LucidworksTrainModelOperator"): {
        "__init__": (
            "name model_type training_data region config credentials_conn_id training_data_credentials "
            "if_ambiguous lucidworks_conn_id wait_for_completion deferrable poll_interval timeout kwargs"
        ),
    },
    ("lucidworks_provider.operators.models", "LucidworksDeployModelOperator"): {
        "__init__": (
            "model_id region config min_replicas max_replicas if_ambiguous lucidworks_conn_id "
            "wait_for_completion deferrable poll_interval timeout kwargs"
        ),
    },
    ("lucidworks_provider.operators.models", "LucidworksUndeployModelOperator"): {
        "__init__": (
            "deployment_id lucidworks_conn_id wait_for_completion deferrable poll_interval timeout kwargs"
        ),
        "execute_complete": "context event",
    },
    ("lucidworks_provider.sensors.models", "_StateSensor"): {
        "__init__": "target_state kwargs",
        "execute_complete": "context event",
    },
    ("lucidworks_provider.triggers", "LucidworksStateTrigger"): {
        "__init__": "lucidworks_conn_id kind resource_id target poll_interval deadline model_id",
    },
    ("lucidworks_provider.sensors.jobs", "LucidworksJobSensor"): {
        "__init__": ("job_id kind result_path lucidworks_conn_id deferrable poke_interval timeout kwargs"),
        "execute_complete": "context event deadline",
    },
    ("lucidworks_provider.triggers", "LucidworksJobsTrigger"): {
        "__init__": "kind lucidworks_conn_id folder nonce poll_interval deadline",
    },
}


@pytest.mark.parametrize(("module", "names"), PUBLIC.items())
def test_modules(module: str, names: list[str]) -> None:
    loaded = import_module(module)
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_the_error_tree() -> None:
    tree = {
        name: (" ".join(base.__name__ for base in one.__bases__), one.retryable)
        for name, one in vars(errors).items()
        if inspect.isclass(one) and issubclass(one, Exception)
    }
    assert tree == ERRORS
    for name in tree:
        assert name in (errors.__doc__ or ""), f"{name} is not in the picture of the tree"


FUNCTIONS = {
    "lucidworks_provider.client.use_cases": {"list_use_cases": ""},
    "lucidworks_provider.client.predictions": {
        **dict.fromkeys(("predict", "submit_prediction", "tokenize", "preview_prompt"), "options inputs"),
        **dict.fromkeys(("predict_items", "submit_items"), "options items"),
        "get_prediction": "job_id options",
    },
    "lucidworks_provider.client.chunking": {
        "submit_chunking": "text chunker model_id data_type chunker_config model_config",
        "submit_text": "options text max_bytes",
        "get_chunking": "job_id",
    },
    "lucidworks_provider.client.jobs": {"poll_job": "kind job_id"},
    "lucidworks_provider.client.models": {
        **dict.fromkeys(("list_models", "list_deployments"), ""),
        "get_model": "model_id metrics",
        "create_model": "training credentials",
        "list_model_deployments": "model_id",
        "find_deployment": "deployment_id model_id",
        "create_deployment": "placement",
        "delete_deployment": "deployment_id",
    },
}


@pytest.mark.parametrize(
    ("module", "functions"), FUNCTIONS.items(), ids=lambda one: one if type(one) is str else ""
)
def test_calls(module: str, functions: dict[str, str]) -> None:
    for name, parameters in functions.items():
        signature = inspect.signature(getattr(import_module(module), name))
        assert list(signature.parameters) == parameters.split(), name


@pytest.mark.parametrize(
    ("where", "methods"), METHODS.items(), ids=lambda one: one[1] if type(one) is tuple else ""
)
def test_signatures(where: tuple[str, str], methods: dict[str, str]) -> None:
    cls = getattr(import_module(where[0]), where[1])
    for name, expected in methods.items():
        # Airflow wraps the constructors of operators.
        parameters = list(inspect.signature(inspect.unwrap(getattr(cls, name))).parameters)[1:]
        assert " ".join(parameters) == expected, name


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


def test_what_a_state_trigger_writes_is_what_it_reads() -> None:
    from lucidworks_provider.triggers import LucidworksStateTrigger

    given = {"lucidworks_conn_id": "c", "kind": "model", "resource_id": "m", "target": "ready"}
    given |= {"poll_interval": 1.0, "deadline": 2.0}
    path, kwargs = LucidworksStateTrigger(**given).serialize()
    assert (path, kwargs) == ("lucidworks_provider.triggers.LucidworksStateTrigger", given)


def test_what_a_trigger_writes_is_what_it_reads() -> None:
    from lucidworks_provider.triggers import LucidworksJobsTrigger

    given = {
        "kind": "chunking",
        "lucidworks_conn_id": "c",
        "folder": "f",
        "nonce": "n",
        "poll_interval": 1.0,
        "deadline": 2.0,
    }
    path, kwargs = LucidworksJobsTrigger(**given).serialize()
    assert (path, kwargs) == ("lucidworks_provider.triggers.LucidworksJobsTrigger", given)
