# SPDX-License-Identifier: Apache-2.0
"""Extra links of a task in Airflow's UI."""
