# SPDX-License-Identifier: Apache-2.0
"""Measurements that ``docs/benchmarks.md`` reports; each module is a script that prints tables."""
