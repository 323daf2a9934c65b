# SPDX-License-Identifier: Apache-2.0
"""The Lucidworks AI API with types, for code with and without an event loop."""

from __future__ import annotations

from lucidworks_provider.hooks.chunking import ChunkingMethods
from lucidworks_provider.hooks.models import ModelMethods
from lucidworks_provider.hooks.predictions import PredictionMethods


class LucidworksHook(PredictionMethods, ChunkingMethods, ModelMethods):
    """
    Calls Lucidworks AI with the fleet's token, retries what may be retried, and returns values with types.

    Every method exists twice, for threads and (with an ``a`` before its name) for event loops. A hook keeps
    one connection for its synchronous calls, so threads have one each.

    :param lucidworks_conn_id: the connection.
    """
