"""API clients with short retry pauses."""

from pydantic import SecretStr

from etl.api.client import CortexClient
from etl.api.rate_limit import LocalLimiter
from etl.api.retry import RetryPolicy
from etl.config import ApiSettings

QUICK = RetryPolicy(first_pause_s=0.01, longest_pause_s=0.05)
KEY = "sk-sandbox"


def client_of(url, listener=lambda event: None, *, key=KEY, limiter=None, policy=QUICK, limit=None, **settings):
    """Return a client of the API at `url`, not yet open."""
    return CortexClient(
        ApiSettings(base_url=url, **settings),
        SecretStr(key),
        limiter or LocalLimiter(100_000),
        listener,
        policy=policy,
        **({} if limit is None else {"max_response_bytes": limit}),
    )


def busiest(world):
    """Return the app id and workflow id with the most runs."""
    workflow_id = max(world.runs, key=lambda each: len(world.runs[each]))
    return world.workflows[workflow_id]["app"]["id"], workflow_id
