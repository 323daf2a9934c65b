# SPDX-License-Identifier: Apache-2.0
"""What of the connection the predictions use: where they go, and by which names."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from operator_service import LLAMA, Service, by_jobs, direct, new_context, scripted

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.predictions import predict, submit_prediction
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.errors import AuthenticationError, ConfigurationError, UnknownResourceError
from lucidworks_provider.hooks.lucidworks import LucidworksHook

TEXTS = ["One.", "Two."]


def paths(service: Service) -> list[str]:
    return [record.path for record in service.emulator.state.log if record.path.startswith("/ai/")]


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("path", [None, "", "/ai/usecase"])
def test_the_path_of_the_list_of_use_cases(service: Service, mode: str, path: str | None) -> None:
    service.connect(extra={"use_cases_path": path})
    hook = LucidworksHook()
    listed = hook.call(list_use_cases()) if mode == "sync" else asyncio.run(hook.acall(list_use_cases()))
    assert "gte-small" in listed["embedding"]
    assert LLAMA in listed["rag"]
    assert paths(service) == [path or "/ai/usecases"]


def test_the_nearest_names_come_from_that_path(service: Service) -> None:
    listed = {"useCases": [{"useCase": "passthrough", "models": ["llama-9"]}], "version": 1}

    def reply(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        return (200, listed) if path == "/catalog/v2/use-cases" else (404, {"message": f"No {path}."})

    with scripted(reply) as server:
        extra = {"application_url": server.url, "use_cases_path": "/catalog/v2/use-cases"}
        service.connect(extra=extra)
        with pytest.raises(UnknownResourceError, match="For 'passthrough' the service lists llama-9"):
            direct(TEXTS).execute(new_context())
        service.connect(extra=extra | {"use_cases_path": "/nowhere"})
        with pytest.raises(UnknownResourceError, match="No /ai/prediction/passthrough") as caught:
            direct(TEXTS).execute(new_context())
        assert "lists" not in str(caught.value)


@pytest.mark.parametrize("use_case", ["keyword-extraction", "keyword_extraction"])
@pytest.mark.parametrize(
    "segments", [{"keyword-extraction": "ner"}, '{"keyword-extraction": "ner"}'], ids=["object", "text"]
)
def test_a_segment_of_the_connection_replaces_the_use_case_on_the_wire(
    service: Service, tmp_path: Path, segments: object, use_case: str
) -> None:
    service.connect(extra={"use_case_segments": segments})
    hook, options = LucidworksHook(), use_cases.keyword_extraction(LLAMA)
    for call in (predict(options, TEXTS), submit_prediction(options, TEXTS)):
        hook.call(call)
        asyncio.run(hook.acall(call))
    rows = direct(TEXTS, use_case=use_case).execute(new_context())
    assert [row["keywords"] for row in rows] == [[], []], "still read as keywords"
    by_jobs(TEXTS, tmp_path / "p.jsonl", use_case=use_case).execute(new_context())
    now, later = f"/ai/prediction/ner/{LLAMA}", f"/ai/async-prediction/ner/{LLAMA}"
    assert [path for path in paths(service) if path.endswith(LLAMA)] == [now, now, later, later, now, later]


def test_segments_of_other_use_cases_and_of_the_older_pages(service: Service) -> None:
    service.connect(extra={"use_case_segments": {"ner": "entities"}})
    service.settings(strict_segments=True)
    direct(TEXTS).execute(new_context())
    direct(TEXTS, use_case="keyword_extraction").execute(new_context())
    assert paths(service)[0] == f"/ai/prediction/passthrough/{LLAMA}"
    service.connect(extra={"use_case_segments": {"keyword-extraction": "keyword_extraction"}})
    with pytest.raises(UnknownResourceError, match="404"):
        direct(TEXTS, use_case="keyword-extraction").execute(new_context())


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"login": ""}, "Client ID"),
        ({"password": None}, "Client Secret"),
        ({"host": "", "extra": {"application_url": None}}, "Application ID"),
        ({"host": "app.example.com", "extra": {"application_url": ""}}, "Application ID"),
        *(
            ({"extra": {"use_cases_path": path}}, "use_cases_path")
            for path in ("ai/usecases", "/ai/../usecases", "/ai/{customer_id}")
        ),
        *(
            ({"extra": {"use_case_segments": segments}}, "use_case_segments")
            for segments in ("ner=entities", ["ner"], {"ner": "a/b"}, {"ner": 1})
        ),
    ],
)
@pytest.mark.parametrize("form", ["rows", "file", "jobs"])
def test_an_incomplete_connection_is_named_before_anything_is_sent_or_written(
    service: Service, tmp_path: Path, form: str, parts: dict[str, Any], words: str
) -> None:
    service.connect(**parts)
    path = tmp_path / "x" / "p.jsonl"
    where = {} if form == "rows" else {"result_path": str(path)}
    one: Any = by_jobs(TEXTS, path) if form == "jobs" else direct(TEXTS, **where)
    with pytest.raises(ConfigurationError, match=f"'lucidworks_default'.*{words}"):
        one.execute(new_context())
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("asynchronous", [False, True], ids=["direct", "jobs"])
def test_wrong_credentials_give_the_services_words_and_no_secret(
    service: Service, tmp_path: Path, asynchronous: bool
) -> None:
    service.connect(password="wrong-s3cret")
    many = [str(n) for n in range(40)]
    path = str(tmp_path / "p.jsonl")
    one = by_jobs(many, path) if asynchronous else direct(many, result_path=path)
    with pytest.raises(AuthenticationError, match="invalid_client") as caught:
        one.execute(new_context())
    assert "wrong-s3cret" not in str(caught.value)
    assert len(service.calls("token")) == 1, "not tried again, and not by each batch"


def test_another_connection_by_its_templated_name(service: Service) -> None:
    service.env.delenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT")
    service.connect("staging")
    names = {"lucidworks_conn_id": "where", "use_case": "what", "model_id": "model"}
    arguments = {name: f"{{{{ params.{value} }}}}" for name, value in names.items()}
    config = '{"maxWords": {{ params.words }}}'
    one = direct("{{ params.texts | tojson }}", use_case_config=config, **arguments)
    params = {"where": "staging", "what": "summarization", "model": LLAMA, "words": 1}
    params["texts"] = ["One is few.", "Two are more."]
    one.render_template_fields(new_context() | {"params": params})
    assert [row["response"] for row in one.execute(new_context())] == ["One", "Two"]
    assert json.loads(one.use_case_config) == {"maxWords": 1}
