# SPDX-License-Identifier: Apache-2.0
"""Runs over a catalogue that are killed or race, compared with their input and the service's log."""
