"""Normalization: from one document of the API to rows, parents first. Pure: no clock, no I/O.

Reasons that a `RecordError` can carry (`etl_rejects.reason`):

    invalid_json      not JSON, or not UTF-8
    not_an_object     JSON, but not an object
    missing_id        no `id`, or an empty one
    invalid_field     a field that a column depends on has the wrong type, or is not a date
    not_redactable    the redaction of payloads could not be applied, so nothing of the run is stored
"""

from typing import Final

from etl.normalize.fitting import JSONB
from etl.normalize.listed_workflows import normalize_workflow
from etl.normalize.normalizer import Normalizer
from etl.normalize.quarantine import abridge, abridge_of, is_due
from etl.normalize.redaction import REDACTED, Redactor, redactor_of
from etl.normalize.rows import Row, RunRows, VersionRows, effective_updated_at, with_storable_numbers

__all__ = [
    "JSONB",
    "REASONS",
    "REDACTED",
    "Normalizer",
    "Redactor",
    "Row",
    "RunRows",
    "VersionRows",
    "abridge",
    "abridge_of",
    "effective_updated_at",
    "is_due",
    "normalize_workflow",
    "redactor_of",
    "with_storable_numbers",
]

REASONS: Final = (
    "invalid_json",
    "not_an_object",
    "missing_id",
    "invalid_field",
    "not_redactable",
)
