"""The API's documents as pydantic models: the validation of record.

Lenient where the API may grow: unknown fields are kept (`model_extra`), unknown enumeration values are text like any
other, null means absent. Strict on the type of whatever a column is made from: a wrong type is refused, never coerced.
The models take what `decode.parse` gives; numbers are `Decimal`. Free-form JSON is passed through as it is, and
usage trees, which may be of any depth, are validated a node at a time.

Reasons that a `RecordError` can carry (`etl_rejects.reason`):

    invalid_json         not JSON, or not UTF-8
    not_an_object        the item is JSON, but not an object
    missing_id           no `id`, or an empty one
    invalid_field        a field that a column depends on has the wrong type, or is no date
    foreign_workflow     a run of another workflow than the one whose listing it stood in
    number_out_of_range  a number that PostgreSQL has no type for
    not_redactable       the redaction of payloads could not be applied, so nothing of the run is stored
"""

from typing import Final

from etl.models.fields import Document, describe, validated
from etl.models.moments import Moment, read_moment
from etl.models.runs import CallUsage, Retention, Run, RunUsage, StepCall, StepOutput, Usage
from etl.models.workflows import App, Author, Auto, Display, InputOptions, Step, Tag, Version, VersionBody, Workflow

__all__ = [
    "REASONS",
    "App",
    "Author",
    "Auto",
    "CallUsage",
    "Display",
    "Document",
    "InputOptions",
    "Moment",
    "Retention",
    "Run",
    "RunUsage",
    "Step",
    "StepCall",
    "StepOutput",
    "Tag",
    "Usage",
    "Version",
    "VersionBody",
    "Workflow",
    "describe",
    "read_moment",
    "validated",
]

REASONS: Final = (
    "invalid_json",
    "not_an_object",
    "missing_id",
    "invalid_field",
    "foreign_workflow",
    "number_out_of_range",
    "not_redactable",
)
