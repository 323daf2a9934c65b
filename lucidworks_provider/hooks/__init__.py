# SPDX-License-Identifier: Apache-2.0
"""Hooks: ``LucidworksAuthHook`` for tokens, ``LucidworksHook`` for the API."""
