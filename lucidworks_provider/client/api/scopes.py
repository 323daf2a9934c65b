# SPDX-License-Identifier: Apache-2.0
"""
What an access token opens. The vendor keeps one live token for each of them.

Source: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-authentication-api
"""

from __future__ import annotations

# Every `/ai/*` request.
PREDICT_SCOPE = "machinelearning.predict"
# The Models API: models and deployments.
MODEL_SCOPE = "machinelearning.model"
SCOPES = (PREDICT_SCOPE, MODEL_SCOPE)
