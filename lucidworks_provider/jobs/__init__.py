# SPDX-License-Identifier: Apache-2.0
"""Durable jobs: state records, the polling loop, result files."""
