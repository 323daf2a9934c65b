# SPDX-License-Identifier: Apache-2.0
"""One live access token per scope for the whole fleet: the protocol, and the stores to share it in."""
