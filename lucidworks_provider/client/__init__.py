# SPDX-License-Identifier: Apache-2.0
"""Lucidworks AI without Airflow: requests and responses, access tokens, HTTP with retries and a rate limiter."""
