"""The simulated Cortex API: a believable world, its endpoints over HTTP, and faults on demand.

It imports nothing from the rest of the package, so that a mistake there cannot hide itself here.
"""

from etl.sandbox.faults import Faults
from etl.sandbox.passage import Changes
from etl.sandbox.server import RequestLog, Sandbox
from etl.sandbox.serving import serve
from etl.sandbox.world import World

__all__ = ["Changes", "Faults", "RequestLog", "Sandbox", "World", "serve"]
