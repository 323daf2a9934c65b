# SPDX-License-Identifier: Apache-2.0
"""``modelConfig`` of generative use cases (section 3.2): types, ranges, and the keys of third parties."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.checks import InvalidRequest
from lucidworks_provider.emulator.models import OPENAI
from lucidworks_provider.emulator.sentences import truncate_tokens

if TYPE_CHECKING:
    from lucidworks_provider.emulator.checks import Fields

_TEXTS = ("apiKey", "azureDeployment", "azureEndpoint", "googleProjectId", "googleRegion")
_FIELDS = ("temperature", "topP", "topK", "presencePenalty", "frequencyPenalty", "maxTokens", *_TEXTS)
_PENALTY = 2.0  # the range is not seen; the examples have 1 and 2 [A]


@dataclass(frozen=True)
class Generation:
    """The settings of one call of a generative model; all have documented defaults."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256
    api_key: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, body: Fields, model_id: str, *, managed_keys: bool, ignore_unknown: bool) -> Generation:
        """Check the object."""
        config = body.object("modelConfig", _FIELDS, ignore_unknown=ignore_unknown)
        for name in ("presencePenalty", "frequencyPenalty"):
            config.number(name, 0.0, minimum=-_PENALTY, maximum=_PENALTY)
        _check_top_k(config)
        texts = {name: config.text(name) for name in _TEXTS}
        if ("azureDeployment" in config) != ("azureEndpoint" in config):
            raise InvalidRequest("modelConfig: azureDeployment and azureEndpoint are required together.")
        third_party = model_id in OPENAI or "azureEndpoint" in config
        if third_party and texts["apiKey"] is None and not managed_keys:
            raise InvalidRequest("modelConfig.apiKey: required for models of a third party.")
        return cls(
            temperature=config.number("temperature", cls.temperature, minimum=0, maximum=2),
            top_p=config.number("topP", cls.top_p, minimum=0, maximum=1),
            max_tokens=config.integer("maxTokens", cls.max_tokens, minimum=1),
            api_key=texts["apiKey"],
        )

    def cut(self, response: str) -> str:
        """End a text where the model would have to stop."""
        return truncate_tokens(response, self.max_tokens)[0].rstrip()


def _check_top_k(config: Fields) -> None:
    """Accept -1 for all tokens, which the newer set of defaults writes as -1.0."""
    if "topK" not in config:
        return
    value = config.values["topK"]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < -1 or value == 0:
        raise InvalidRequest("modelConfig.topK: an integer of at least 1, or -1, is required.")
