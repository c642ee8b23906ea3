"""The format of messages for each receiver; text from runs is never parsed as markup."""

from __future__ import annotations

import json

import pytest

from etl.observe.webhooks import Message, body_for

MESSAGE = Message("<!channel> & *all* [x](y)", ["id: <@U1>", "text: **bold**\n\x1b[2J"], {"event": "alert.firing"})


@pytest.mark.parametrize("host", ["hooks.slack.com", "HOOKS.SLACK.COM.", "hooks.slack-gov.com"])
def test_slack_receives_blocks_of_plain_text(host) -> None:
    sent = body_for(f"https://{host}/services/T0/B0/x", MESSAGE)
    assert sorted(sent) == ["blocks", "text"]  # Slack refuses nothing, and reads nothing else
    assert sent["text"] == "&lt;!channel&gt; &amp; *all* [x](y)"
    section, details = sent["blocks"]
    assert section == {"type": "section", "text": {"type": "plain_text", "text": MESSAGE.text, "emoji": False}}
    (code,) = details["elements"]
    assert (details["type"], code["type"]) == ("rich_text", "rich_text_preformatted")
    assert code["elements"] == [{"type": "text", "text": "id: <@U1>\ntext: **bold**\\n\\x1b[2J"}]
    assert len(body_for(f"https://{host}/", Message("no details", [], {}))["blocks"]) == 1


@pytest.mark.parametrize(
    "host",
    [
        "contoso.webhook.office.com",
        "prod-12.westeurope.logic.azure.com:443",
        "default0a.bc.environment.api.powerplatform.com",
    ],
)
def test_teams_receives_an_adaptive_card_without_markdown(host) -> None:
    sent = body_for(f"https://{host}/workflows/x?sig=y", MESSAGE)
    assert sent["type"] == "message"
    (attachment,) = sent["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    assert {block["type"] for block in card["body"]} == {"RichTextBlock"}
    runs = [run for block in card["body"] for run in block["inlines"]]
    assert {run["type"] for run in runs} == {"TextRun"}
    assert [run["text"] for run in runs] == [MESSAGE.text, "id: <@U1>", "text: **bold**\\n\\x1b[2J"]


@pytest.mark.parametrize("host", ["chat.example", "slack.com.example", "myslack.com", "127.0.0.1:80"])
def test_other_receivers_get_the_fields(host) -> None:
    assert body_for(f"https://{host}/x", MESSAGE) == {"text": MESSAGE.text, "event": "alert.firing"}


@pytest.mark.parametrize("host", ["hooks.slack.com", "contoso.webhook.office.com"])
def test_long_messages_stay_within_the_limits(host) -> None:
    sent = json.dumps(body_for(f"https://{host}/", Message("é" * 9000, ["é" * 9000] * 50, {})))
    assert len(sent) < 28_000
    assert json.dumps("é" * 3001)[1:-1] not in sent
