"""Format messages to webhooks for the receiver: Slack, Teams, or JSON for others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etl.text import visible

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
