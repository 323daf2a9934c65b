# SPDX-License-Identifier: Apache-2.0
"""A distributed Airflow: Celery, PostgreSQL, Redis, workers without a common disk."""
