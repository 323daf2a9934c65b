# SPDX-License-Identifier: Apache-2.0
"""Runs over a catalogue that are killed or race, judged by what was given and what the service saw."""
