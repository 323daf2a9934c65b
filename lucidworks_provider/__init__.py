# SPDX-License-Identifier: Apache-2.0
"""Lucidworks AI for Apache Airflow."""

__version__ = "0.1.0"
