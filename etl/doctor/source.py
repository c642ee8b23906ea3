"""Looks at the API: reach, key, apps, workflows, clock. Each request is sent once, so that the answer comes soon."""

from __future__ import annotations

import json
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

from etl.doctor.checks import Check, failed, ok, warning
from etl.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from etl.config import AppSettings, Settings

_TIMEOUT_S = 10
_SKEW_S = 60  # a clock that is off by more makes times hard to read, and lookback too short at some point
_PLACEHOLDER = "app_123"


async def examine_source(settings: Settings) -> AsyncIterator[Check]:
    """Yield the findings about the API, in the order in which one depends on the other."""
    if not settings.apps:
        yield failed("apps", "none is set", "Name at least one under `apps:` in the settings.", 2)
        return
    told_time = False
    timeout = aiohttp.ClientTimeout(total=min(_TIMEOUT_S, settings.api.timeout_s))
    async with aiohttp.ClientSession(settings.api.base_url, timeout=timeout) as session:
        for app in settings.apps:
            try:
                key = settings.require_key(app).get_secret_value()
            except SettingsError as error:
                yield failed("key", error.message, error.hint, 2)
                continue
            answer = await _ask(session, f"/apps/{quote(app.id, safe='')}/workflows?take=1", key)
            if isinstance(answer, Check):
                yield answer
                return
            if not told_time:
                told_time = True
                yield ok("api", f"{settings.api.base_url} answers in {answer.seconds * 1000:.0f} ms")
                yield _clock(answer)
            yield _app(app, answer)
            if answer.status == 200:
                async for check in _workflows(session, app, key):
                    yield check


class _Answer:
    """A response: its status, body, time taken, and the `Date` header as given."""

    def __init__(self, status: int, headers: Any, body: bytes, seconds: float) -> None:
        self.status = status
        self.headers = headers
        self.seconds = seconds
        try:
            self.document = json.loads(body)
        except ValueError:
            self.document = None

    @property
    def message(self) -> str:
        """What the API says is wrong."""
        said = self.document.get("message") if isinstance(self.document, dict) else None
        return f"{self.status} {said}" if said else f"status {self.status}"


async def _ask(session: aiohttp.ClientSession, path: str, key: str) -> _Answer | Check:
    began = datetime.now(UTC)
    try:
        async with session.get(path, headers={"Authorization": f"Bearer {key}"}) as response:
            body = await response.content.read(10_000_000)
            seconds = (datetime.now(UTC) - began).total_seconds()
            return _Answer(response.status, response.headers, body, seconds)
    except TimeoutError:
        return failed("api", f"no answer in {_TIMEOUT_S} s", "Check the network, a proxy, and api.base_url.", 1)
    except aiohttp.ClientConnectorDNSError as error:
        return failed("api", f"there is no host {error.host}", "Fix api.base_url, or the name server.", 1)
    except (aiohttp.ClientSSLError, ssl.SSLError) as error:
        return failed("api", f"no TLS: {error}", "Check the clock of this machine and its CA certificates.", 1)
    except (aiohttp.ClientError, OSError) as error:
        found = f"cannot be reached: {error}"
        return failed("api", found, "Check the network, a firewall or proxy, and api.base_url.", 1)


def _clock(answer: _Answer) -> Check:
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:
        return warning("clock", "the API's answer carries no Date", "Nothing to do, if this machine's clock is right.")
    skew = (datetime.now(UTC) - theirs.astimezone(UTC)).total_seconds() - answer.seconds / 2
    found = f"this machine is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API"
    if abs(skew) <= _SKEW_S:
        return ok("clock", found)
    return warning("clock", found, "Set the clock by NTP: timedatectl set-ntp true.")


def _app(app: AppSettings, answer: _Answer) -> Check:
    if answer.status == 200 and not isinstance(answer.document, list):
        found = f"{app.id}: what answers gives no list of workflows"
        return failed("api", found, "Check api.base_url: something else than the API answers there.", 1)
    if answer.status == 200:
        count = answer.headers.get("pagination-count")
        return ok("app", f"{app.id}: the key is accepted; {count or 'some'} workflows are listed")
    if answer.status == 401:
        return failed("key", f"{app.id}: the API refuses the key: {answer.message}", "Set CORTEX_API_KEY anew.", 3)
    if answer.status == 404:
        hint = "Put your app's id in the place of the example's." if app.id == _PLACEHOLDER else "Fix the app's id."
        return failed("app", f"{app.id}: the API knows no such app", hint, 2)
    if answer.status == 429:
        hint = "Wait a minute; lower api.requests_per_minute if other programs share this address."
        return warning("app", f"{app.id}: the API asks to slow down: {answer.message}", hint)
    return failed(
        "app", f"{app.id}: the API answers {answer.message}", "Try again later; ask the vendor if it lasts.", 1
    )


async def _workflows(session: aiohttp.ClientSession, app: AppSettings, key: str) -> AsyncIterator[Check]:
    """Look up each workflow that is named: whether it is there, and whether it is of this app."""
    for workflow in app.workflows if isinstance(app.workflows, list) else []:
        path = f"/apps/{quote(app.id, safe='')}/workflows/{quote(workflow, safe='')}"
        answer = await _ask(session, path, key)
        if isinstance(answer, Check):
            yield answer
            return
        name = f"{app.id}/{workflow}"
        if answer.status == 404:
            hint = f"Remove it from apps[id={app.id}].workflows, or move it to the app that it belongs to."
            yield failed("workflow", f"{name}: the API knows no such workflow of this app", hint, 2)
        elif answer.status != 200:
            yield failed("workflow", f"{name}: the API answers {answer.message}", "Try again later.", 1)
        else:
            title = answer.document.get("name") if isinstance(answer.document, dict) else None
            yield ok("workflow", f"{name}: {title or 'there'}")
