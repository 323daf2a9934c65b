# SPDX-License-Identifier: Apache-2.0
"""Development tools: a throw-away Airflow made of real processes. Not part of the distribution."""
