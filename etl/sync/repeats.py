"""An API that gives the same page again instead of the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.decode import peek_id
from etl.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from etl.api.pages import Page


_LOOKS = 5
"""How often two neighbouring pages must turn out the same: a listing that moves may show such by chance."""


class RepeatGuard:
    """Notices a page that answers with the items of another one.

    Args:
        read: reads the page with a number.
    """

    def __init__(self, read: Callable[[int], Awaitable[Page]]) -> None:
        self._read = read
        self._first: list[bytes] | None = None
        self._last: list[bytes] | None = None

    async def is_end(self, page: Page, take: int) -> bool:
        """Whether `page` is only the last page once more (a server that clamps page numbers).

        Args:
            page: as read; its items are replaced where reading it again gave others.
            take: page size in force.

        Raises:
            FatalError: it repeats although the count promises more.
        """
        items = page.items
        if not items or items not in (self._last, self._first):
            self._last = items
            self._first = items if self._first is None else self._first
            return False
        if page.count is not None:
            if (page.number - 1) * take >= page.count:
                return True
            if not any(peek_id(item) for item in items):
                return False  # bad items look alike
        for _ in range(_LOOKS):
            above, again = await self._read(page.number - 1), await self._read(page.number)
            if again.items != above.items:  # the listing had slid down by a page, and this one comes next
                page.items[:] = again.items
                self._last = page.items
                return False
        raise FatalError(
            f"the API answers page {page.number} with the items of an earlier page",
            hint="Ask the API's operator: paging does not work for this workflow. What was read is kept.",
        )
