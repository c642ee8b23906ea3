"""What to read next, and what it proves: pure decisions from what is known of a stream and what its pages show.

The API promises no order, no change filter and no stable pages, so nothing here assumes them: the order of a listing is
observed, and neighbouring pages overlap, so that the runs themselves show whether anything lies between two answers.
"""

from etl.plan.checkpoint import EDGE, Checkpoint, expires_soon
from etl.plan.head_watch import HeadWatch
from etl.plan.order import OVERLAPPING_PAGES, Listed, Order, OrderObserver, latest_reading, tie_ends
from etl.plan.paging import LINK, Answer, Paging, Span, link, meets
from etl.plan.passes import Pass, closing_pass
from etl.plan.search import GoneSearch, Suspects
from etl.plan.verdict import MAX_PASSES, Evidence, passes_allowed, verdict
from etl.plan.window import EVERYTHING, Window

__all__ = [
    "EDGE",
    "EVERYTHING",
    "LINK",
    "MAX_PASSES",
    "OVERLAPPING_PAGES",
    "Answer",
    "Checkpoint",
    "Evidence",
    "GoneSearch",
    "HeadWatch",
    "Listed",
    "Order",
    "OrderObserver",
    "Paging",
    "Pass",
    "Span",
    "Suspects",
    "Window",
    "closing_pass",
    "expires_soon",
    "latest_reading",
    "link",
    "meets",
    "passes_allowed",
    "tie_ends",
    "verdict",
]
