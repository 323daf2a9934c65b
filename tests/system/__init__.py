# SPDX-License-Identifier: Apache-2.0
"""A real Airflow, real processes: faults, kills, many hosts, long runs."""
