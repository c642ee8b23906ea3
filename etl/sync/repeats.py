"""An API that gives the same page again instead of the next one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.errors import FatalError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from etl.api.pages import Page


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
        if page.count is not None and (page.number - 1) * take >= page.count:
            return True
        again, first = await self._read(page.number), await self._read(1)
        if again.items in (items, first.items):
            raise FatalError(
                f"the API answers page {page.number} with the items of an earlier page",
                mend="Ask the API's operator: paging does not work for this workflow. What was read is kept.",
            )
        page.items[:] = again.items
        self._last = page.items
        return False
