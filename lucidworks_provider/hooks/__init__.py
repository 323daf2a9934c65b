# SPDX-License-Identifier: Apache-2.0
"""The doors for DAG authors: ``LucidworksAuthHook`` for tokens, ``LucidworksHook`` for the API."""
