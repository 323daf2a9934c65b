# SPDX-License-Identifier: Apache-2.0
"""
``POST /ai/tokenization/{MODEL_ID}`` (section 8).

The tokens are the emulator's own: words and punctuation marks in lower case. The prefix of an E5 model is
documented by the example, ``[CLS]`` and ``[SEP]`` are as well. ``tokensUsed`` stands at top level, as there;
its published numbers contradict each other, these agree.
"""

from __future__ import annotations

import json

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import Call
from lucidworks_provider.emulator.checks import Fields, load_json
from lucidworks_provider.emulator.models import MODEL_CONTEXT_TOKENS
from lucidworks_provider.emulator.predictions.ask import items_of
from lucidworks_provider.emulator.predictions.scores import EMBEDDED_WORDS
from lucidworks_provider.emulator.sentences import tokens, truncate_words
from lucidworks_provider.emulator.vector_options import VectorOptions

_BODY = ("batch", "useCaseConfig", "modelConfig")


async def tokenize(call: Call) -> Response:
    """Return the tokens that the embedding use case would embed."""
    model_id = call.request.path_params["model_id"]
    call.record.model = model_id
    model = call.embedding_model(model_id)
    ignore = call.ignore_unknown
    body = Fields.of("body", load_json(await call.json_body()), _BODY, ignore_unknown=ignore)
    items = items_of(body, ("text",), call.settings.batch_overflow, ignore_unknown=ignore)
    options = VectorOptions.of(body, model, ignore_unknown=ignore)
    call.note_texts([item.text for item in items])
    generated = [_tokens(item.text, options) for item in items]
    count = sum(len(one) for one in generated)
    counts = {"inputTokens": count, "promptTokens": count, "completionTokens": 0, "totalTokens": count}
    if call.settings.joined_tokens:
        generated = [[", ".join(json.dumps(token) for token in one)] for one in generated]
    return JSONResponse({"generatedTokens": [{"tokens": one} for one in generated], "tokensUsed": counts})


def _tokens(text: str, options: VectorOptions) -> list[str]:
    prefix: list[str] = []
    if options.data_type is not None and "e5" in options.model.model_id.split("-"):
        prefix = [options.data_type.value, ":"]
    room = MODEL_CONTEXT_TOKENS - len(prefix) - 2
    return ["[CLS]", *prefix, *tokens(truncate_words(text, EMBEDDED_WORDS))[:room], "[SEP]"]
