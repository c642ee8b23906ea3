"""Definitions already made into rows, by the bytes they came as: thousands of runs repeat the same one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from etl.decode import Json, parse
from etl.normalize.definitions import draft_rows, version_rows

if TYPE_CHECKING:
    from etl.normalize.rows import VersionRows

_MAX_BYTES: Final = 4 * 2**20  # of the documents that are kept, so that huge ones cannot fill the memory


class Definitions:
    """The definitions of one workflow; at most `size` of them are kept, those used longest ago leave first."""

    def __init__(self, workflow_id: str, size: int) -> None:
        self._workflow_id = workflow_id
        self._size = size
        self._bytes = 0
        self._known: OrderedDict[tuple[bytes, str | None, bool], VersionRows] = OrderedDict()

    def version(self, text: bytes, document: Json = None) -> VersionRows:
        """The rows of the saved version whose JSON text is `text`; `document` is the same already parsed, if it is."""
        key = (text, None, False)
        found = self._known.get(key)
        if found is None:
            found = version_rows(parse(text) if document is None else document)
            self._keep(key, found)
        else:
            self._known.move_to_end(key)
        return found

    def draft(self, text: bytes, app_id: str | None, document: Json = None) -> VersionRows:
        """The rows of the draft whose JSON text is `text`, in a workflow of the app `app_id`."""
        key = (text, app_id, True)
        found = self._known.get(key)
        if found is None:
            found = draft_rows(parse(text) if document is None else document, app_id, self._workflow_id)
            self._keep(key, found)
        else:
            self._known.move_to_end(key)
        return found

    def _keep(self, key: tuple[bytes, str | None, bool], rows: VersionRows) -> None:
        if len(key[0]) > _MAX_BYTES:
            return
        self._known[key] = rows
        self._bytes += len(key[0])
        while len(self._known) > self._size or self._bytes > _MAX_BYTES:
            (text, _, _), _ = self._known.popitem(last=False)
            self._bytes -= len(text)
