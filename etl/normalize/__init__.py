"""One document of the API becomes rows, parents first; pure: no clock, no I/O."""

from etl.normalize.normalizer import Normalizer
from etl.normalize.redaction import REDACTED, Redactor
from etl.normalize.redaction_settings import quarantine_redactor_of, redactor_of
from etl.normalize.retention import is_due
from etl.normalize.rows import Row, RunRows, VersionRows, effective_updated_at
from etl.normalize.workflows import normalize_workflow

__all__ = [
    "REDACTED",
    "Normalizer",
    "Redactor",
    "Row",
    "RunRows",
    "VersionRows",
    "effective_updated_at",
    "is_due",
    "normalize_workflow",
    "quarantine_redactor_of",
    "redactor_of",
]
