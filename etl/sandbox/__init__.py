"""A simulated Cortex API: realistic data, the endpoints over HTTP, and faults on demand.

It imports nothing from the rest of the package, so that tests against it cannot share a mistake with the code.
"""

from etl.sandbox.faults import Faults
from etl.sandbox.server import RequestLog, Sandbox, serve
from etl.sandbox.world import Changes, World

__all__ = ["Changes", "Faults", "RequestLog", "Sandbox", "World", "serve"]
