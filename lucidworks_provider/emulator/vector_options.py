# SPDX-License-Identifier: Apache-2.0
"""What a request says about its vectors: ``modelConfig`` and ``useCaseConfig`` of sections 3.3 and 3.4."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.vectors import DataType, Quantization, embed, quantize, written

if TYPE_CHECKING:
    from lucidworks_provider.emulator.checks import Fields
    from lucidworks_provider.emulator.models import EmbeddingModel


@dataclass(frozen=True)
class VectorOptions:
    """The model and the form of the vectors of one request."""

    model: EmbeddingModel
    dimension: int
    quantization: Quantization | None = None
    data_type: DataType | None = None

    @classmethod
    def of(cls, body: Fields, model: EmbeddingModel, *, ignore_unknown: bool) -> VectorOptions:
        """Check both objects; a size above the model's is refused [A]."""
        config = body.object(
            "modelConfig", ("vectorQuantizationMethod", "dimReductionSize"), ignore_unknown=ignore_unknown
        )
        use_case = body.object("useCaseConfig", ("dataType",), ignore_unknown=ignore_unknown)
        return cls(
            model,
            dimension=config.integer("dimReductionSize", model.size, minimum=1, maximum=model.size),
            quantization=config.choice("vectorQuantizationMethod", Quantization),
            data_type=use_case.choice("dataType", DataType),
        )

    def to_json(self, text: str, field: str = "vector") -> str:
        """Embed a text and write the element that chunks and predictions have in common."""
        floats, tokens = embed(
            text, model_id=self.model.model_id, dimension=self.dimension, data_type=self.data_type
        )
        method = self.quantization
        values = written(floats) if method is None else str(quantize(floats, method)).replace(" ", "")
        return f'{{"tokensUsed":{{"inputTokens":{tokens}}},{json.dumps(field)}:{values}}}'
