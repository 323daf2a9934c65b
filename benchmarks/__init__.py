# SPDX-License-Identifier: Apache-2.0
"""Measurements: each script prints a table and says what it ran on. The figures stand in docs/benchmarks.md."""
