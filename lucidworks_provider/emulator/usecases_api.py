# SPDX-License-Identifier: Apache-2.0
"""
``GET /ai/usecases`` and ``/ai/usecase`` (section 4).

Path, filters and shape are all assumptions [A]: the vendor's page could not be found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.predictions.use_cases import USE_CASES, UseCaseName

if TYPE_CHECKING:
    from lucidworks_provider.emulator.calls import Call


async def list_use_cases(call: Call) -> Response:
    """List each use case with its models, and with live deployments where they serve."""
    query = call.request.query_params
    use_cases = {name.value: list(use_case.models) for name, use_case in USE_CASES.items()}
    use_cases[UseCaseName.EMBEDDING.value] += call.state.live_deployments(call.settings)
    wanted_case, wanted_model = query.get("useCase"), query.get("modelId")
    listed = [
        {"useCase": name, "models": [one for one in models if wanted_model in {None, one}]}
        for name, models in use_cases.items()
        if wanted_case in {None, name}
    ]
    return JSONResponse([entry for entry in listed if entry["models"]])
