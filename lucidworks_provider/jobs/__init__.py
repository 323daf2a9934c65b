# SPDX-License-Identifier: Apache-2.0
"""The job protocol: intent, submitted, collected; when to poll. No Airflow and no I/O."""
