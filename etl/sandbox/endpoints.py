"""The endpoints of the simulated API: from a request and a world to a response. No I/O."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from etl.sandbox.responses import Request, Response, document, encode, error
from etl.sandbox.run_documents import ORIGINS, STATUSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from etl.sandbox.world import World

Json = Any
_TERSE_WITHOUT: Final = ("result", "input", "output", "usage", "workflow_version", "workflow_version_draft")
_JSON: Final = {"content-type": "application/json; charset=utf-8"}


class BadRequestError(Exception):
    """A refused request, with its response."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status)
        self.response = response


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The API over a world.

    Attributes:
        world: the data to serve.
        max_take: the largest page size, whatever `take` asks for.
        verbose_required: whether runs are complete only with `verbose=all`.
        next_tokens: whether lists send a `pagination-next` token for the next page.
    """

    world: World
    max_take: int = 100
    verbose_required: bool = True
    next_tokens: bool = False

    def respond(self, request: Request, own_app: str) -> Response:
        """Return the response to a request.

        Args:
            request: the request.
            own_app: the app that the id `c` stands for.
        """
        try:
            return self._route(request, own_app)
        except BadRequestError as refused:
            return refused.response

    def _route(self, request: Request, own_app: str) -> Response:
        match request.parts:
            case ("apps", app, "workflows"):
                self._expect(request, "GET")
                return self._workflows(request, self._app(app, own_app))
            case ("apps", app, "workflows", workflow_id, *rest):
                workflow = self._workflow(self._app(app, own_app), workflow_id)
                return self._in_workflow(request, workflow, rest)
        return error(404, "Not found")

    def _in_workflow(self, request: Request, workflow: dict[str, Json], rest: Sequence[str]) -> Response:
        workflow_id = workflow["id"]
        match rest:
            case []:
                self._expect(request, "GET")
                return document(workflow)
            case ["runs", *more]:
                return self._in_runs(request, workflow_id, more)
            case ["versions"]:
                self._expect(request, "GET")
                newest_first = self.world.versions[workflow_id][::-1]
                return self._page(request, newest_first, encode)
            case ["versions", wanted]:
                self._expect(request, "GET")
                return self._version(workflow_id, wanted)
        return error(404, "Not found")

    def _in_runs(self, request: Request, workflow_id: str, rest: Sequence[str]) -> Response:
        self._expect(request, {"replay": "POST", "retention": "PATCH"}.get("".join(rest[1:]), "GET"))
        if rest and rest[0] not in self.world.runs[workflow_id]:
            return error(404, "Run not found")
        match rest:
            case []:
                return self._runs(request, workflow_id)
            case [run_id]:
                return Response(200, dict(_JSON), self._item(request, workflow_id, run_id))
            case [run_id, "replay"]:
                return document(self.world.replay_run(run_id, finish=False))
            case [run_id, "retention"]:
                return document(self.world.set_retention(run_id, _max_age(request)))
        return error(404, "Not found")

    def _workflows(self, request: Request, app_id: str) -> Response:
        search = request.query.get("search", "").casefold()
        tags = {tag for tag in request.query.get("tags", "").split(",") if tag}
        found = [
            workflow
            for workflow in self.world.workflows.values()
            if workflow["app"]["id"] == app_id
            and search in workflow["name"].casefold()
            and (not tags or tags & {value for tag in workflow["tags"] for value in (tag["id"], tag["name"])})
        ]
        return self._page(request, found, encode)

    def _runs(self, request: Request, workflow_id: str) -> Response:
        origin = _choice(request, "origin", ORIGINS)
        status = _choice(request, "status", STATUSES)
        found = self.world.listing(workflow_id, origin, status)
        return self._page(request, found, lambda run: self._item(request, workflow_id, run["id"]))

    def _item(self, request: Request, workflow_id: str, run_id: str) -> bytes:
        raw = self.world.raw.get(run_id)
        if raw is not None:
            return raw
        run = self.world.runs[workflow_id][run_id]
        verbose = request.query.get("verbose")
        if verbose not in {None, "all"}:
            raise BadRequestError(error(400, "verbose must be all", path="verbose", code="invalid_enum_value"))
        if self.verbose_required and verbose != "all":
            run = {key: value for key, value in run.items() if key not in _TERSE_WITHOUT}
        return encode(run)

    def _version(self, workflow_id: str, wanted: str) -> Response:
        for version in self.world.versions[workflow_id]:
            if wanted in {version["id"], str(version["version"])}:
                return document(version)
        return error(404, "Version not found")

    def _page(self, request: Request, found: Sequence[Json], item: Any) -> Response:
        page = _number(request, "page", 1)
        if "next" in request.query:
            page = _page_of(request.query["next"])
        take = min(_number(request, "take", 100), self.max_take)
        first = (page - 1) * take
        headers = _JSON | {
            "pagination-page": str(page),
            "pagination-take": str(take),
            "pagination-count": str(len(found)),
        }
        if self.next_tokens and first + take < len(found):
            headers["pagination-next"] = base64.urlsafe_b64encode(b"page:%d" % (page + 1)).decode()
        return Response(200, headers, items=[item(one) for one in found[first : first + take]])

    def _app(self, app_id: str, own_app: str) -> str:
        found = own_app if app_id == "c" else app_id
        if found not in self.world.apps:
            raise BadRequestError(error(404, "App not found"))
        return found

    def _workflow(self, app_id: str, workflow_id: str) -> dict[str, Json]:
        workflow = self.world.workflows.get(workflow_id)
        if workflow is None or workflow["app"]["id"] != app_id:
            raise BadRequestError(error(404, "Workflow not found"))
        return workflow

    def _expect(self, request: Request, method: str) -> None:
        if request.method != method:
            raise BadRequestError(error(405, f"Method {request.method} not allowed"))


def _choice(request: Request, name: str, known: tuple[str, ...]) -> str:
    value = request.query.get(name, "ALL")
    if value != "ALL" and value not in known:
        message = f"Invalid enum value. Expected ALL | {' | '.join(known)}, received '{value}'"
        raise BadRequestError(error(400, message, path=name, code="invalid_enum_value"))
    return value


def _number(request: Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise BadRequestError(error(400, f"{name} must be a positive number", path=name, code="invalid_type"))
    return int(text)


def _page_of(token: str) -> int:
    try:
        text = base64.urlsafe_b64decode(token).decode()
        return int(text.removeprefix("page:"))
    except (binascii.Error, ValueError) as problem:
        raise BadRequestError(error(400, "Invalid next page token", path="next", code="custom")) from problem


def _max_age(request: Request) -> int:
    try:
        asked = json.loads(request.body or b"null")
    except ValueError as problem:
        raise BadRequestError(error(400, "Malformed JSON body")) from problem
    age = asked.get("max_age_in_seconds") if isinstance(asked, dict) else None
    if not isinstance(age, int):
        message = "max_age_in_seconds must be a number"
        raise BadRequestError(error(400, message, path="max_age_in_seconds", code="invalid_type"))
    return age
