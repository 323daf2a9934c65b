# SPDX-License-Identifier: Apache-2.0
"""Synchronous and asynchronous predictions of the nine use cases, and the prompt preview (sections 5, 6, 9)."""
