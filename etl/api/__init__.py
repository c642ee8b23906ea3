"""A client of the Cortex workflow-runs API that obeys the rate limit and retries."""
