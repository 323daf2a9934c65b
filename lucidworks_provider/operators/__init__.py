# SPDX-License-Identifier: Apache-2.0
"""Operators: parameters, templates, deferral. The work is done in ``jobs`` and ``corpus``."""
