# SPDX-License-Identifier: Apache-2.0
"""
The use cases of the Prediction API: options, types of results, and which ones the service lists.

==============================  ==============================================  ================  =====
use case                        ``use_case_config``                             prediction        async
==============================  ==============================================  ================  =====
``embedding``                   ``dataType`` (query, passage)                   Embedding         no
``classification``              ``labels`` (required)                           Classification    no
``passthrough``                 ``useSystemPrompt``, ``dataType``               Prediction        yes
``rag``                         ``memoryUuid``, ``extractRelevantContent``,     RagAnswer         yes
                                ``answerNotFoundMessage``
``summarization``               ``maxWords``                                    Prediction        yes
``keyword-extraction``          ``maxKeywords``                                 Keywords          yes
``ner``                         ``entityTypeMap``                               Entities          yes
``faq-enrichment``              --                                              Faq               yes
``standalone-query-rewriter``   ``memoryUuid`` (required)                       Prediction        yes
any other                       anything                                        Prediction        yes
==============================  ==============================================  ================  =====

The vendor's pages disagree about the options of some, so an unknown option is sent unchanged, unless it
resembles a known one. Source: sections 3 and 5 of the API reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeGuard, TypeVar

from lucidworks_provider.client.http.messages import (
    Call,
    Response,
    check_json,
    check_status,
    endpoint,
    excerpt,
    get,
    parse_json,
    path_segment,
    scrub,
)
from lucidworks_provider.client.options import (
    SWITCH,
    TEXT,
    Option,
    Options,
    as_json,
    check_options,
    check_text,
    did_you_mean,
    integral,
    number,
    one_of,
    plain,
    valid,
    whole,
)
from lucidworks_provider.client.prediction_types import (
    Classification,
    Embedding,
    Entities,
    Faq,
    Keywords,
    Prediction,
    RagAnswer,
)
from lucidworks_provider.client.secrets import SHORTEST, is_secret_name, secrets_in, without_secrets
from lucidworks_provider.errors import InputError, MalformedResponseError

P = TypeVar("P", bound=Prediction)
# Request items: `text`, and `documents` for RAG.
Items = Sequence[Mapping[str, Any]]

# Of one request, synchronous or not (section 3.1).
MAX_BATCH = 32


def _is_texts(value: object, least: int = 1) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) >= least
        and all(isinstance(one, str) and one.strip() for one in value)
    )


_LABELS: Option[object] = ("a list of texts, at least one", valid(_is_texts))
_TYPE_MAP: Option[object] = (
    "a dictionary of an entity type to a list of texts",
    valid(
        lambda v: isinstance(v, Mapping) and all(isinstance(k, str) and _is_texts(e, 0) for k, e in v.items())
    ),
)
DATA_TYPES = ("passage", "query")
QUANTIZATIONS = ("min-max", "max-scale")
# Section 3.3: of every embedding, in chunks or not, and of tokenization.
MODEL_OPTIONS: Options = {
    "vectorQuantizationMethod": one_of(*QUANTIZATIONS),
    "dimReductionSize": whole(1),
}
# Section 3.2. The range of the penalties is not documented; the default of `topK` is written as -1.0, too.
GENERATIVE_OPTIONS: Options = {
    "temperature": number(0, 2),
    "topP": number(0, 1),
    "topK": integral(-1),
    "presencePenalty": number(),
    "frequencyPenalty": number(),
    "maxTokens": whole(1),
    "apiKey": TEXT,
    "azureDeployment": TEXT,
    "azureEndpoint": TEXT,
    "googleProjectId": TEXT,
    "googleRegion": TEXT,
}


@dataclass(frozen=True, slots=True)
class UseCase:
    """
    One row of the table above.

    :param options: what ``use_case_config`` may hold.
    :param required: names of it without which the service cannot work, with the reason.
    :param model_options: what ``model_config`` may hold.
    :param prediction: the type of one prediction.
    :param asynchronous: whether the Async Prediction API has a page for it.
    """

    options: Options = field(default_factory=dict)
    required: Mapping[str, str] = field(default_factory=dict)
    model_options: Options = field(default_factory=lambda: GENERATIVE_OPTIONS)
    prediction: type[Prediction] = Prediction
    asynchronous: bool = True


USE_CASES: Mapping[str, UseCase] = {
    "embedding": UseCase(
        {"dataType": one_of(*DATA_TYPES)},
        model_options=MODEL_OPTIONS,
        prediction=Embedding,
        asynchronous=False,
    ),
    "classification": UseCase(
        {"labels": _LABELS, "topK": whole(1), "similarityCutoff": number()},
        {"labels": "the texts are sorted by them"},
        prediction=Classification,
        asynchronous=False,
    ),
    "passthrough": UseCase({"useSystemPrompt": SWITCH, "dataType": TEXT}),
    "rag": UseCase(
        {"memoryUuid": TEXT, "extractRelevantContent": SWITCH, "answerNotFoundMessage": TEXT},
        prediction=RagAnswer,
    ),
    "summarization": UseCase({"maxWords": whole(1)}),
    "keyword-extraction": UseCase({"maxKeywords": whole(1)}, prediction=Keywords),
    "ner": UseCase({"entityTypeMap": _TYPE_MAP}, prediction=Entities),
    "faq-enrichment": UseCase(prediction=Faq),
    "standalone-query-rewriter": UseCase(
        {"memoryUuid": TEXT},
        {"memoryUuid": "it rewrites by an earlier conversation; take it from a rag answer"},
    ),
}
# Another segment as text: nothing is known about it, so nothing is refused.
OTHER = UseCase(model_options={})


@dataclass(frozen=True, slots=True)
class PredictionOptions(Generic[P]):
    """
    Options of a prediction request; validated by the constructor.

    :param use_case: a name of the table above (``_`` for ``-`` will do), or any other path segment.
    :param model_id: a model that serves it; for a custom embedding model the deployment id.
    :param use_case_config: the use case's options, with the vendor's names.
    :param model_config: the model's options, with the vendor's names, e.g. ``{"temperature": 0.2}``.
    :raises InputError: names the option and what it may be.
    """

    use_case: str
    model_id: str
    use_case_config: Mapping[str, Any] | None = None
    model_config: Mapping[str, Any] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        path_segment(self.use_case, "use_case")
        path_segment(self.model_id, "model_id")
        known = self.known
        use_case_config = check_options(
            self.use_case_config, known.options, f"use_case_config of {self.use_case!r}", closed=False
        )
        object.__setattr__(self, "use_case_config", use_case_config)
        model_config = check_options(
            _not_secret(self.model_config), known.model_options, "model_config", closed=False
        )
        if model_config is not None:
            model_config |= dict(_secrets(self.model_config))
        object.__setattr__(self, "model_config", model_config)
        for name, value in _secrets(self.model_config):
            taken = known.model_options
            if name not in taken and "apiKey" in taken and plain(name) == "apikey":
                raise InputError(f"model_config has no option {name!r}. Did you mean 'apiKey'?")
            if not isinstance(value, Mapping) and (not isinstance(value, str) or not value.strip()):
                raise InputError(f"model_config: {name} is not a string; pass the key itself.")
        if misplaced := [name for name, _ in _secrets(self.use_case_config)]:
            raise InputError(
                f"use_case_config of {self.use_case!r} has the key {misplaced[0]}; put it into model_config."
            )
        for name, reason in known.required.items():
            if not (self.use_case_config or {}).get(name):
                raise InputError(f"use_case_config of {self.use_case!r}: {name} is missing; {reason}.")
        check_json(dict(self.use_case_config or {}), f"use_case_config of {self.use_case!r}")
        check_json(dict(self.model_config or {}), "model_config")

    @property
    def known(self) -> UseCase:
        """What the vendor documents about the use case."""
        return USE_CASES.get(self.name, OTHER)

    @property
    def name(self) -> str:
        """The use case's name in the table, or the segment as it was given."""
        hyphens = self.use_case.replace("_", "-")
        return hyphens if hyphens in USE_CASES else self.use_case

    @property
    def secrets(self) -> tuple[str, ...]:
        """Third parties' keys in the options: never shown, never stored."""
        return tuple(value for value in secrets_in(self.model_config) if len(value) >= SHORTEST)

    @property
    def quantization(self) -> str | None:
        """As of chunking, of the use case ``embedding``."""
        found = (self.model_config or {}).get("vectorQuantizationMethod")
        return found if isinstance(found, str) else None

    def as_json(self) -> dict[str, Any]:
        """The options as plain JSON without secrets: for fingerprints and file metadata."""
        return {
            "use_case": self.name,
            "model_id": self.model_id,
            "use_case_config": dict(sorted((self.use_case_config or {}).items())),
            "model_config": dict(sorted((without_secrets(self.model_config) or {}).items())),
        }

    def body(self, items: Items) -> dict[str, Any]:
        """
        A request's body.

        :raises InputError: no items, more than 32, or one that the use case cannot take.
        """
        if not 1 <= len(items) <= MAX_BATCH:
            raise InputError(
                f"A request takes 1 to {MAX_BATCH} inputs, not {len(items)}; split them, as the operators do."
            )
        body: dict[str, Any] = {"batch": list(items)}
        if self.use_case_config:
            body["useCaseConfig"] = dict(self.use_case_config)
        if self.model_config:
            body["modelConfig"] = dict(self.model_config)
        return body


def _secrets(options: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    found = options.items() if isinstance(options, Mapping) else ()
    return [(name, value) for name, value in found if is_secret_name(name) and value is not None]


def _not_secret(options: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if not isinstance(options, Mapping):
        return options
    return {name: value for name, value in options.items() if not is_secret_name(name)}


def read_items(inputs: object, options: PredictionOptions[Any]) -> Items:
    """
    Check inputs, before anything is sent.

    :param inputs: texts, or dictionaries with ``text``, for RAG ``documents``, and optionally an ``id``, which is not
        sent; or the same as JSON (a rendered template).
    :return: what is sent.
    :raises InputError: names the input by its position.
    """
    if isinstance(inputs, str):
        try:
            inputs = json.loads(inputs)
        except (ValueError, RecursionError):
            raise InputError(
                "inputs is a text that is not JSON; give a list of texts, in a template by `| tojson`."
            ) from None
    # A text is a sequence, too: of characters.
    if isinstance(inputs, Mapping | str | bytes) or not isinstance(inputs, Sequence) or not inputs:
        raise InputError("inputs must be a list of texts or of {'text': …}, with at least one element.")
    items: list[Mapping[str, Any]] = []
    names: set[str] = set()
    for position, given in enumerate(inputs):
        what = f"inputs[{position}]"
        wire = as_json(given) if isinstance(given, Mapping) else {"text": given}
        name = wire.pop("id", None)
        if name is not None:
            if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
                raise InputError(f"{what} has the id {name!r}; give it a text or a number.")
            check_json(name, what)
            if str(name) in names:
                raise InputError(f"inputs: the id {str(name)!r} occurs more than once.")
            names.add(str(name))
        items.append(check_wire(wire, what, options))
    return items


def check_wire(wire: Mapping[str, Any], what: str, options: PredictionOptions[Any]) -> Mapping[str, Any]:
    """
    Refuse an input that the use case does not take.

    :param what: names it at the begin of a message.
    :raises InputError: names the problem.
    """
    check_text(wire.get("text"), what)
    if options.known is not OTHER:
        taken = {"text", "documents"} if options.name == "rag" else {"text"}
        if unknown := sorted(str(key) for key in set(wire) - taken):
            allowed = " and ".join(sorted(taken))
            raise InputError(
                f"{what} has {', '.join(unknown)}; an input of {options.use_case!r} has {allowed}."
            )
    if options.name == "rag":
        _check_documents(wire, what, options)
    if (options.use_case_config or {}).get("dataType") == "json_prompt":
        _check_messages(str(wire["text"]), what)
    check_json(wire, what)
    return wire


def _check_documents(wire: Mapping[str, Any], what: str, options: PredictionOptions[Any]) -> None:
    documents = wire.get("documents")
    if documents is None and (options.use_case_config or {}).get("memoryUuid"):
        return  # the conversation has documents already
    if not isinstance(documents, list) or not documents:
        raise InputError(f"{what} has no documents; rag answers from a list of {{'body': …, 'source': …}}.")
    for number_, document in enumerate(documents):
        where = f"{what}: documents[{number_}]"
        if not isinstance(document, Mapping):
            raise InputError(
                f"{where} is not a dictionary; give 'body' and 'source', and if known 'title', 'date'."
            )
        for name in ("body", "source"):
            value = document.get(name)
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{where} has no {name}; each document needs a body and a source.")


def _check_messages(text: str, what: str) -> None:
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        messages = None
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(one, dict) and {"role", "content"} <= one.keys() for one in messages)
    ):
        raise InputError(
            f"{what}: with dataType json_prompt the text is JSON, a list of {{'role': …, 'content': …}}."
        )


ModelConfig = Mapping[str, Any] | None


def embedding(
    model_id: str,
    *,
    data_type: str | None = None,
    quantization: str | None = None,
    dimensions: int | None = None,
) -> PredictionOptions[Embedding]:
    """
    Vectors of short texts; the service cuts a text after some 256 words.

    :param model_id: an embedding model, or the deployment id of a custom one.
    :param data_type: ``passage`` for documents, ``query`` for search queries.
    :param quantization: ``max-scale`` (signed bytes) or ``min-max`` (unsigned bytes); floats when None.
    :param dimensions: length of the vectors, at most the model's.
    """
    return PredictionOptions(
        "embedding",
        model_id,
        _given(dataType=data_type),
        _given(vectorQuantizationMethod=quantization, dimReductionSize=dimensions),
    )


def classification(
    model_id: str,
    *,
    labels: Sequence[str],
    top_k: int | None = None,
    similarity_cutoff: float | None = None,
) -> PredictionOptions[Classification]:
    """
    Scores of labels.

    :param labels: what a text may be.
    :param top_k: number of labels to return, those with the highest scores.
    :param similarity_cutoff: leave out labels with a lower score, possibly all of them.
    """
    config = {"labels": _listed(labels), "topK": top_k, "similarityCutoff": similarity_cutoff}
    return PredictionOptions("classification", model_id, config)


def passthrough(
    model_id: str,
    *,
    use_system_prompt: bool | None = None,
    data_type: str | None = None,
    model_config: ModelConfig = None,
) -> PredictionOptions[Prediction]:
    """
    The model's answer to a text as it is.

    :param use_system_prompt: wrap the text into the model's own prompt with a generic system prompt.
    :param data_type: ``text``, or ``json_prompt`` for a JSON list of ``{"role", "content"}``; goes before
        ``use_system_prompt``.
    """
    config = _given(useSystemPrompt=use_system_prompt, dataType=data_type)
    return PredictionOptions("passthrough", model_id, config, model_config)


def rag(
    model_id: str,
    *,
    memory_uuid: str | None = None,
    extract_relevant_content: bool | None = None,
    answer_not_found_message: str | None = None,
    model_config: ModelConfig = None,
) -> PredictionOptions[RagAnswer]:
    """
    Answers from documents.

    :param memory_uuid: of an earlier answer, to continue its conversation.
    :param extract_relevant_content: the vendor's ``extractRelevantContent``.
    :param answer_not_found_message: the answer when the documents have none.
    """
    config = _given(
        memoryUuid=memory_uuid,
        extractRelevantContent=extract_relevant_content,
        answerNotFoundMessage=answer_not_found_message,
    )
    return PredictionOptions("rag", model_id, config, model_config)


def summarization(
    model_id: str, *, max_words: int | None = None, model_config: ModelConfig = None
) -> PredictionOptions[Prediction]:
    """Summaries, of at most ``max_words`` words."""
    return PredictionOptions("summarization", model_id, _given(maxWords=max_words), model_config)


def keyword_extraction(
    model_id: str, *, max_keywords: int | None = None, model_config: ModelConfig = None
) -> PredictionOptions[Keywords]:
    """Keywords, ``max_keywords`` at most."""
    return PredictionOptions("keyword-extraction", model_id, _given(maxKeywords=max_keywords), model_config)


def ner(
    model_id: str,
    *,
    entity_type_map: Mapping[str, Sequence[str]] | None = None,
    model_config: ModelConfig = None,
) -> PredictionOptions[Entities]:
    """
    Named entities.

    :param entity_type_map: the types of the entities, each with examples.
    """
    kinds = entity_type_map
    if isinstance(kinds, Mapping):
        kinds = {kind: _listed(names) for kind, names in kinds.items()}
    return PredictionOptions("ner", model_id, _given(entityTypeMap=kinds), model_config)


def faq_enrichment(model_id: str, *, model_config: ModelConfig = None) -> PredictionOptions[Faq]:
    """Questions that a text answers, with the answers."""
    return PredictionOptions("faq-enrichment", model_id, None, model_config)


def standalone_query_rewriter(
    model_id: str, *, memory_uuid: str, model_config: ModelConfig = None
) -> PredictionOptions[Prediction]:
    """
    A query of a conversation, rewritten so that it is understood without it.

    :param memory_uuid: of an earlier ``rag`` answer or rewriting.
    """
    config = {"memoryUuid": memory_uuid}
    return PredictionOptions("standalone-query-rewriter", model_id, config, model_config)


def _listed(names: Any) -> Any:
    """Convert a sequence to a list for JSON, but not a text, which the options refuse."""
    return list(names) if isinstance(names, Sequence) and not isinstance(names, str) else names


def _given(**options: Any) -> dict[str, Any] | None:
    return {name: value for name, value in options.items() if value is not None} or None


def list_use_cases() -> Call[dict[str, tuple[str, ...]]]:
    """
    The models of each use case.

    The path is an assumption (no vendor page states it): ``use_cases_path`` of the connection changes it.
    """
    return endpoint(
        lambda settings: get(
            "List use cases", settings.application_base + settings.use_cases_path, endpoint="list_use_cases"
        ),
        read_use_cases,
    )


_EXPECTED_LIST = (
    'a JSON array of {"useCase": …, "models": […]}, or an object that has this array as `useCases`'
)


def read_use_cases(response: Response) -> dict[str, tuple[str, ...]]:
    """
    The models of each use case.

    No vendor page shows this response, so only the shapes that section 4 of the API reference assumes are read: a
    list of ``{"useCase": …, "models": […]}``, or an object with that list as ``useCases``. A model is its id, or an
    object with ``modelId``.

    :raises MalformedResponseError: another shape; names the fields and types that were received.
    """
    check_status(response, "List use cases")
    decoded = parse_json(response.body)
    entries = decoded.get("useCases") if isinstance(decoded, Mapping) else decoded
    if decoded is None:
        raise _unknown_list(
            response, f"the response is not JSON, or null, and starts with {excerpt(response.body)!r}"
        )
    if not isinstance(entries, list):
        raise _unknown_list(response, f"the response is {_shape(decoded)}")
    listed: dict[str, tuple[str, ...]] = {}
    for position, entry in enumerate(entries):
        fields = entry if isinstance(entry, Mapping) else {}
        name, models = fields.get("useCase"), fields.get("models")
        if not _is_name(name) or not isinstance(models, list):
            raise _unknown_list(response, f"entry {position} is {_shape(entry)}")
        ids: list[Any] = [one.get("modelId") if isinstance(one, Mapping) else one for one in models]
        if wrong := [one for one, model_id in zip(models, ids, strict=True) if not _is_name(model_id)]:
            raise _unknown_list(response, f"a model of entry {position} is {_shape(wrong[0])}")
        listed[name] = (*listed.get(name, ()), *ids)
    return listed


def _is_name(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _unknown_list(response: Response, received: str) -> MalformedResponseError:
    return MalformedResponseError(
        f"List use cases: {received}; expected {_EXPECTED_LIST}.", status=response.status
    )


# Of what a JSON decoder returns.
_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a text",
    bool: "a boolean",
    int: "a number",
    float: "a number",
    type(None): "null",
}
_SHOWN_FIELDS = 8


def _shape(value: object) -> str:
    """Fields and types of decoded JSON, without the values, which may be secrets."""
    kind = _TYPES[type(value)]
    if not isinstance(value, Mapping):
        return kind
    fields = [f"`{scrub(name)[:40]}` ({_TYPES[type(one)]})" for name, one in value.items()]
    shown = [*fields[:_SHOWN_FIELDS], *(["…"] if len(fields) > _SHOWN_FIELDS else [])]
    return f"{kind} with {', '.join(shown)}" if shown else f"{kind} without fields"


def nearest(use_cases: Mapping[str, Sequence[str]], use_case: str, model_id: str) -> str:
    """A sentence with the nearest names; empty if the list has none."""
    name = use_case.replace("_", "-")
    by_name = {name.replace("_", "-"): models for name, models in use_cases.items()}
    models = by_name.get(name)
    if models is None:
        listed = f"The service lists no use case {use_case!r}, but {', '.join(sorted(by_name))}."
        return f"{listed}{did_you_mean(name, by_name)}" if by_name else ""
    if model_id in models or not models:
        return ""
    import difflib  # only for messages

    close = difflib.get_close_matches(model_id, models, n=3, cutoff=0.4) or list(models)[:5]
    return f"For {use_case!r} the service lists {', '.join(close)}.{did_you_mean(model_id, close)}"
