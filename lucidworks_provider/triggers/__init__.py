# SPDX-License-Identifier: Apache-2.0
"""Triggers: waiting in the triggerer."""
