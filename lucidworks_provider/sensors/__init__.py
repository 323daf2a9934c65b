# SPDX-License-Identifier: Apache-2.0
"""Sensors: wait for what somebody else has started."""
