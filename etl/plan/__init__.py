"""What to read next, and what it proves: pure decisions from what is known of a stream and what its pages show.

The API promises no order, no change filter and no stable pages, so nothing here assumes them: the order of a listing is
observed, and neighbouring pages overlap, so that the runs themselves show whether anything lies between two answers.
"""

from etl.plan.lookback import head_is_read
from etl.plan.order import OUT_OF_PLACE, OVERLAPPING_PAGES, Listed, Order, OrderObserver, order_of, tie_ends
from etl.plan.paging import LINK, Answer, Paging, Span, link, meets
from etl.plan.passes import EDGE, Checkpoint, Pass, closing_pass
from etl.plan.search import Break, break_of, next_page, stretches
from etl.plan.verdict import MAX_PASSES, Evidence, passes_allowed, verdict
from etl.plan.window import BEHIND, EVERYTHING, IN_FRONT, Window

__all__ = [
    "BEHIND",
    "EDGE",
    "EVERYTHING",
    "IN_FRONT",
    "LINK",
    "MAX_PASSES",
    "OUT_OF_PLACE",
    "OVERLAPPING_PAGES",
    "Answer",
    "Break",
    "Checkpoint",
    "Evidence",
    "Listed",
    "Order",
    "OrderObserver",
    "Paging",
    "Pass",
    "Span",
    "Window",
    "break_of",
    "closing_pass",
    "head_is_read",
    "link",
    "meets",
    "next_page",
    "order_of",
    "passes_allowed",
    "stretches",
    "tie_ends",
    "verdict",
]
