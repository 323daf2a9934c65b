# SPDX-License-Identifier: Apache-2.0
"""Documents from files, tables and inline values: listing, decoding, parsing."""
