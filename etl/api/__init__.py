"""The source: a client of the Cortex workflow-runs API that keeps to the rate limit and tries again."""
