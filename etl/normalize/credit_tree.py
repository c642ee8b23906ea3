"""The credit tree of a run, flattened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.models import CallUsage, Usage, validated
from etl.normalize.columns import exact

if TYPE_CHECKING:
    from etl.normalize.columns import Leftovers
    from etl.normalize.rows import Row


def flatten(run_id: str, step_key: str, root: Usage, place: tuple[str, ...], leftovers: Leftovers) -> list[Row]:
    """One row a node below `root`, parents before children, whatever the depth.

    `place` is where the root stands in the payload (`usage`, or `usage.steps.KEY`); the unknown fields of a node are
    kept there, under `calls` and the node's path.
    """
    rows: list[Row] = []
    # Nodes still to be read, the next one last: (node, path, path of its parent, depth).
    pending: list[tuple[object, str, str | None, int]] = [
        (node, str(ordinal), None, 1) for ordinal, node in _backwards(root)
    ]
    while pending:
        document, path, parent_path, depth = pending.pop()
        node = validated(CallUsage, document, ".".join((*place, "calls", path)))
        rows.append((run_id, step_key, path, parent_path, depth, node.id, exact(node.total)))
        leftovers.put_unknown((*place, "calls", path), node.unknown)
        pending += [(child, f"{path}.{ordinal}", path, depth + 1) for ordinal, child in _backwards(node)]
    return rows


def _backwards(node: Usage) -> list[tuple[int, object]]:
    return list(enumerate(node.calls or ()))[::-1]
