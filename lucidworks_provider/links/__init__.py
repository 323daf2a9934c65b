# SPDX-License-Identifier: Apache-2.0
"""Buttons of a task in Airflow's UI."""
