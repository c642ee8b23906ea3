"""Alerts: a webhook that is called when the state of syncs or alert rules changes, and pings for a dead man's switch.

Alerts cannot fail a sync and delay it only briefly: each call has a timeout and one retry, and a failed call is only
logged. The URLs are secrets; messages show only their host. Redirects are not followed, because the body is meant only
for the configured URL. Messages have the format of their receiver: Slack, Teams, or JSON for others.
"""

from __future__ import annotations

import asyncio
import math
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from etl import __version__
from etl.db.statements import statements
from etl.errors import EXIT_HELD, EXIT_INTERRUPTED, SettingsError
from etl.events import Notice
from etl.files import make_private_folder, touch
from etl.text import counted, visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import asyncpg

    from etl.config.network import Network
    from etl.events import Listener, RuleChange

TIMEOUT_S = 5.0
"""Timeout of one call in seconds."""

_ATTEMPTS = 2
_PAUSE_S = 0.5
_MAX_STREAMS = 20  # per message
_MAX_ROWS = 5  # per message about a rule
_LONGEST_VALUE = 500  # characters of a value in a row

_SQL = statements("alerts")

_SLACK = ("slack.com", "slack-gov.com")
_TEAMS = (
    "webhook.office.com", "outlook.office.com", "logic.azure.com", "logic.azure.us", "api.powerplatform.com",
    "api.powerplatform.us",
)  # fmt: skip
# Slack refuses blocks with more than 3,000 characters, and Teams refuses messages larger than 28 kB.
_LONGEST_TEXT = 1000
_LONGEST_LINE = 250
_MAX_LINES = 10


@dataclass(frozen=True, slots=True)
class SyncEnd:
    """The end of a sync.

    Attributes:
        scope: the apps and workflows that the sync was limited to; alerts are tracked per scope.
        summary: `SyncSummary.as_dict()`.
        late_streams: the number of late streams.
    """

    scope: str
    summary: Mapping[str, Any]
    late_streams: int = 0

    @property
    def exit_code(self) -> int:
        """The exit code of the command."""
        code: int = self.summary["exit_code"]
        return code

    @property
    def state(self) -> str | None:
        """`good` or `bad`. None if the sync was interrupted, or skipped held streams while no stream is late."""
        if self.exit_code == EXIT_INTERRUPTED or (self.exit_code == EXIT_HELD and not self.late_streams):
            return None
        return "bad" if self.exit_code else "good"

    def text(self) -> str:
        """Describe the result in one or two sentences."""
        begin = f"cortex-etl on {socket.gethostname()}: {self.summary['mode']}"
        if not self.exit_code:
            return f"{begin} succeeded"
        hint = f" (hint: {self.summary['hint']})" if self.summary["hint"] else ""
        late = f"; {counted(self.late_streams, 'stream is late', 'streams are late')}" if self.late_streams else ""
        return f"{begin} ended with {self.exit_code}: {self.summary['error']}{late}{hint}"


async def count_late_streams(connection: asyncpg.Connection) -> int:
    """Return the number of late streams."""
    count: int = await connection.fetchval(_SQL["late_streams"])
    return count


class Caller:
    """Sends POST requests. A failure is reported to the listener and raises no exception.

    Args:
        listener: receives a notice for each failed call.
        mask: masks secrets in the body.
        network: proxies and certificates.
        timeout_s: timeout of one call in seconds.
    """

    def __init__(
        self, listener: Listener, mask: Callable[[Any], Any], network: Network, *, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._listener = listener
        self._mask = mask
        self._network = network
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def send(self, url: str, message: Message) -> bool:
        """POST a message in the receiver's format; return whether the server accepted it."""
        mask = self._mask  # mask before the text is shortened, which could leave a part of a secret
        masked = Message(mask(message.text), mask(message.lines), mask(message.fields))
        return await self.call(url, body_for(url, masked))

    async def call(self, url: str, body: Mapping[str, Any] | str) -> bool:
        """POST JSON or text; return whether the server accepted it."""
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_PAUSE_S)
            try:
                status = await self._post(url, self._mask(body))
                if 200 <= status < 300:
                    return True
                reason = f"status {status}"
                if 300 <= status < 400:
                    reason += ", a redirect, which is not followed: set the URL that it leads to"
                if 300 <= status < 500 and status != 429:
                    break
            except SettingsError as error:
                reason = error.message
                break
            except TimeoutError:
                reason = f"no response within {self._timeout.total:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                reason = type(error).__name__
        host = urlsplit(url).hostname or ""
        self._listener(Notice("alert.failed", {"host": host, "error": reason}, level="error"))
        return False

    async def _post(self, url: str, body: Mapping[str, Any] | str) -> int:
        """Send one request; return the status of the response."""
        proxy, connector = self._network.proxy_for(url), aiohttp.TCPConnector(ssl=self._network.tls())
        content: dict[str, Any] = {"data": body} if isinstance(body, str) else {"json": body}
        async with (
            aiohttp.ClientSession(timeout=self._timeout, connector=connector) as session,
            session.post(
                url, allow_redirects=False, proxy=proxy.value if proxy is not None else None, **content
            ) as response,
        ):
            return response.status


class Pings:
    """Pings for a dead man's switch, as defined by healthchecks.io: URL/start, URL on success, URL/fail.

    The start ping is sent when the first stream starts, so an invocation that finds all streams locked sends none.
    """

    def __init__(self, url: str, caller: Caller) -> None:
        self._url = url
        self._caller = caller
        self._start: asyncio.Task[bool] | None = None

    def begin(self) -> None:
        """Send the start ping once, without waiting for it."""
        if self._start is None:
            self._start = asyncio.get_running_loop().create_task(self._caller.call(self._with("/start"), ""))

    async def finish(self, end: SyncEnd) -> None:
        """Wait for the start ping, then send the final ping."""
        if self._start is not None:
            await self._start
        if end.state is not None:
            await self._caller.call(self._with("/fail" if end.state == "bad" else ""), end.text())

    def _with(self, suffix: str) -> str:
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))


class StateAlerts:
    """A webhook that is called when syncs start to fail and when they recover.

    The warehouse stores the state that was last sent, so that the next sync repeats a failed call. While the warehouse
    is unreachable, a marker file records that the failure was sent.

    Args:
        url: URL of the webhook.
        caller: calls the webhook.
        marker: path of the marker file.
    """

    def __init__(self, url: str, caller: Caller, marker: Path) -> None:
        self._url = url
        self._caller = caller
        self._marker = marker

    async def send(self, end: SyncEnd, connection: asyncpg.Connection | None) -> None:
        """Call the webhook if the state differs from the state that was last sent.

        Args:
            end: the end of the sync.
            connection: a connection to the warehouse; None if it is unreachable.
        """
        if end.state is None:
            return
        name = f"alerts.sent {end.scope}".strip()
        row = await connection.fetchrow(_SQL["last_sent"], name) if connection is not None else None
        was = "bad" if self._marker.exists() else row["state"] if row is not None else "good"
        since = row["since"] if row is not None else None
        if end.state != was and not await self._caller.send(self._url, _message(end, was, since)):
            return
        if connection is None:
            self._mark()
            return
        if end.state != was or row is None or row["state"] != end.state:
            await connection.execute(_SQL["store"], name, end.state)
        self._marker.unlink(missing_ok=True)

    def _mark(self) -> None:
        """Create the marker file; if that fails, the next sync sends the alert again."""
        try:
            make_private_folder(self._marker.parent)
            touch(self._marker)
        except OSError:
            return


def _message(end: SyncEnd, was: str, since: str | None) -> Message:
    """Return the message about a changed state."""
    streams: Sequence[Mapping[str, Any]] = end.summary["streams"]
    unhealthy = [each for each in streams if each["status"] in ("failed", "partial")]
    text = end.text() if end.state == "bad" else f"{end.text()} (recovered)"
    fields = {
        "event": f"sync.{end.state}",
        "state": end.state,
        "was": was,
        "was_since": since,
        "mode": end.summary["mode"],
        "scope": end.scope or "all",
        "exit_code": end.exit_code,
        "error": end.summary["error"],
        "hint": end.summary["hint"],
        "sync_id": end.summary["id"],
        "streams": [dict(each) for each in unhealthy[:_MAX_STREAMS]],
        "unhealthy_streams": len(unhealthy),
        **_sender(),
    }
    return Message(text, [f"{each['workflow_id']}: {each['error'] or each['status']}" for each in unhealthy], fields)


def rule_message(change: RuleChange, mask: Callable[[Any], Any]) -> Message:
    """Return the message about a rule that starts firing or is resolved, with its first rows."""
    state = "firing" if change.firing else "resolved"
    text = f"cortex-etl on {socket.gethostname()}: alert {change.rule} is {state}"
    if change.firing:
        text += f": {len(change.rows):,} or more rows" if change.more else f": {counted(len(change.rows), 'row')}"
    rows = [
        {name: _json_value(value, mask) for name, value in zip(change.columns, row, strict=True)}
        for row in change.rows[:_MAX_ROWS]
    ]
    fields = {
        "event": f"alert.{state}",
        "rule": change.rule,
        "state": state,
        "since": change.since.isoformat(timespec="seconds") if change.since else None,
        "rows": rows,
        "found": len(change.rows),
        **_sender(),
    }
    lines = [", ".join(f"{name}: {_as_text(value)}" for name, value in row.items()) for row in rows]
    return Message(text, lines, fields)


def _json_value(value: object, mask: Callable[[Any], Any]) -> object:
    """Return numbers, booleans and null unchanged, and other values as text."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return shortened(mask(str(value)), _LONGEST_VALUE)


def _as_text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _sender() -> dict[str, str]:
    return {
        "host": socket.gethostname(),
        "version": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a webhook.

    Attributes:
        text: the message in one sentence.
        lines: details, one per line.
        fields: the whole message as JSON values, for programs.
    """

    text: str
    lines: Sequence[str]
    fields: Mapping[str, Any]


def body_for(url: str, message: Message) -> dict[str, Any]:
    """Return the JSON body of a message in the receiver's format, which is chosen by the host of the URL.

    Values from runs are placed only in fields that the receiver does not parse as markup.
    """
    text = shortened(visible(message.text), _LONGEST_TEXT)
    lines = [shortened(visible(line), _LONGEST_LINE) for line in message.lines[:_MAX_LINES]]
    host = (urlsplit(url).hostname or "").lower().rstrip(".")
    if _is_of(host, _SLACK):
        return _slack(text, lines)
    if _is_of(host, _TEAMS):
        return _teams(text, lines)
    return {"text": text, **message.fields}


def shortened(text: str, longest: int) -> str:
    """Truncate a text to `longest` characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def _is_of(host: str, domains: Sequence[str]) -> bool:
    return any(host == domain or host.endswith(f".{domain}") for domain in domains)


def _slack(text: str, lines: list[str]) -> dict[str, Any]:
    """Return a message with blocks of plain text, and with `text` for notifications, where `&<>` must be escaped."""
    blocks: list[dict[str, Any]] = [
        {"type": "section", "text": {"type": "plain_text", "text": text, "emoji": False}},
    ]
    if lines:
        details = {"type": "rich_text_preformatted", "elements": [{"type": "text", "text": "\n".join(lines)}]}
        blocks.append({"type": "rich_text", "elements": [details]})
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {"text": escaped, "blocks": blocks}


def _teams(text: str, lines: list[str]) -> dict[str, Any]:
    """Return an adaptive card with rich text blocks; unlike text blocks, they are not parsed as Markdown."""
    parts = [_run(text, weight="Bolder"), *(_run(line, fontType="Monospace") for line in lines)]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "msteams": {"width": "Full"},
        "body": [{"type": "RichTextBlock", "inlines": [part]} for part in parts],
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "contentUrl": None, "content": card}
    return {"type": "message", "attachments": [attachment]}


def _run(text: str, **style: str) -> dict[str, str]:
    return {"type": "TextRun", "text": text, **style}
