# SPDX-License-Identifier: Apache-2.0
"""Operators: parameters, templates, defer; the work is done in the rooms below."""
