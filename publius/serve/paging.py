"""A list of models as a page that the clients of both vendors read, of one server or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from publius.serve.errors import ApiError

__all__ = ["model_page"]


def model_page(models: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> dict[str, Any]:
    """The body of `GET /v1/models`.

    Args:
        models: all of them, as they are shown.
        query: `limit`, and `after_id` or `before_id`; one that names no model counts for nothing.

    Raises:
        ApiError: for a limit that cannot be.
    """
    try:
        limit = int(query.get("limit", "20"))
    except ValueError:
        limit = 0
    if not 1 <= limit <= 1000:
        raise ApiError("invalid_request_error", "limit: must be between 1 and 1000")
    ids, back = [one["id"] for one in models], False
    if (after := query.get("after_id")) in ids:
        models = models[ids.index(after) + 1 :]
    elif (before := query.get("before_id")) in ids:
        models, back = models[: ids.index(before)], True
    shown = models[-limit:] if back else models[:limit]
    ends = {"first_id": shown[0]["id"], "last_id": shown[-1]["id"]} if shown else {}
    more = len(models) > limit
    return {"object": "list", "data": shown, "has_more": more, "first_id": None, "last_id": None, **ends}
