"""What to read next: pure decisions from what is known of a stream and what its pages show.

The API promises no order, no change filter and no stable pages, so nothing here assumes them: the order of a listing is
observed, early stops are allowed only where that order makes them safe, and `pagination-count` has the last word.
"""

from etl.plan.checkpoint import Checkpoint, expires_soon, pages_to_rescue, resume_offset
from etl.plan.extent import Extent
from etl.plan.head import HeadWatch
from etl.plan.lookups import list_by_status
from etl.plan.order import Listed, Order, OrderObserver, latest_reading, order_key, tie_fits
from etl.plan.passes import MAX_PASSES, Pass, passes_allowed
from etl.plan.search import GoneSearch, Suspects
from etl.plan.window import WindowSearch, in_window, window_is_passed

__all__ = [
    "MAX_PASSES",
    "Checkpoint",
    "Extent",
    "GoneSearch",
    "HeadWatch",
    "Listed",
    "Order",
    "OrderObserver",
    "Pass",
    "Suspects",
    "WindowSearch",
    "expires_soon",
    "in_window",
    "latest_reading",
    "list_by_status",
    "order_key",
    "pages_to_rescue",
    "passes_allowed",
    "resume_offset",
    "tie_fits",
    "window_is_passed",
]
