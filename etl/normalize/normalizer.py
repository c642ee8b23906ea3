"""One run as received becomes its rows, by the fast path where that is safe and by the careful one elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.decode import clean_text, peek_id
from etl.errors import RecordError
from etl.normalize.careful import careful_rows
from etl.normalize.context import Stream
from etl.normalize.definition_cache import Definitions
from etl.normalize.fast import fast_rows

if TYPE_CHECKING:
    from etl.normalize.redaction import Redactor
    from etl.normalize.rows import RunRows


class Normalizer:
    """Normalizes the runs of one stream.

    Args:
        app_id: the app in whose listing the runs stand (`stream_app_id`).
        workflow_id: the workflow in whose listing the runs stand.
        store_payloads: False leaves `input`, `result`, and the outputs and logs of steps and calls null.
        redact: what is replaced in a run before anything is made of it.
        cache_size: how many definitions are remembered.
    """

    def __init__(
        self,
        app_id: str,
        workflow_id: str,
        *,
        store_payloads: bool = True,
        redact: Redactor | None = None,
        cache_size: int = 512,
    ) -> None:
        definitions = Definitions(clean_text(workflow_id), cache_size)
        self._stream = Stream(app_id, clean_text(workflow_id), definitions, store_payloads, redact)

    def normalize(self, raw: bytes, digest: bytes) -> RunRows:
        """The rows of one run; `digest` is the hash of its bytes as received, `raw`.

        Raises:
            RecordError: the run cannot be normalized; it carries the run's id where that can be told.
        """
        if self._stream.redactor is None:
            rows = fast_rows(raw, digest, self._stream)
            if rows is not None:
                return rows
        try:
            return careful_rows(raw, digest, self._stream)
        except RecordError as error:
            if error.run_id is None:
                error.run_id = peek_id(raw)
            raise
