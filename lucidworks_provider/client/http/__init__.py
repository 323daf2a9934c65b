# SPDX-License-Identifier: Apache-2.0
"""The only two places that open a socket: requests (sync) and aiohttp (async), with one retry policy."""
