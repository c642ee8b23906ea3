"""Blueprints of a dozen realistic workflows, from which definitions and runs are generated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

Json = Any


@dataclass(frozen=True, slots=True)
class StepPlan:
    """One step of a workflow.

    `seconds` is its median duration, `fails` its failure probability, `config` the fields that its type adds to a
    definition, `loop` the expression that it loops over. `tools` are the tools that a model step may call.
    """

    key: str
    type: str
    seconds: float = 0.0
    fails: float = 0.0
    config: dict[str, Json] = field(default_factory=dict)
    loop: str | None = None
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Blueprint:
    """One workflow: its name, inputs, steps in order, and usage.

    `share` is its weight among the workflows of a world; `origins` maps each origin of runs to a weight;
    `retention_days` is None if runs are kept forever; `calls` are the keys of the blueprints that its workflow steps
    preferably start.
    """

    key: str
    name: str
    description: str | None
    inputs: tuple[str, ...]
    steps: tuple[StepPlan, ...]
    share: float
    origins: dict[str, float]
    tags: tuple[int, ...] = ()
    retention_days: int | None = None
    keeps_failures: bool | None = None
    calls: tuple[str, ...] = ()


def _intake(*, webhook: bool = False) -> StepPlan:
    config: dict[str, Json] = {"input": {"source": "webhook" if webhook else "form"}}
    return StepPlan("intake", "input", 0.01, config=config | ({"webhook": {"enabled": True}} if webhook else {}))


def _note(text: str) -> StepPlan:
    return StepPlan("readme", "note", config={"note": text})


def _model(key: str, prompt: str, seconds: float, **more: Any) -> StepPlan:
    messages = [
        {"role": "system", "content": "You are a careful assistant. Answer in JSON."},
        {"role": "user", "content": prompt},
    ]
    return StepPlan(key, "model", seconds, 0.018, {"provider": {"messages": messages, "temperature": 0.2}}, **more)


def _code(key: str, code: str, **more: Any) -> StepPlan:
    return StepPlan(key, "code", 0.12, 0.012, {"code": code}, **more)


def _http(key: str, url: str, method: str = "GET", **more: Any) -> StepPlan:
    config = {"url": url, "method": method, "headers": {"accept": "application/json"}}
    if method != "GET":
        config["body"] = '{"id": "{{intake.id}}", "text": "{{intake.text}}"}'
    return StepPlan(key, "http_request", 0.4, 0.014, config, **more)


def _browser(key: str, url: str, **more: Any) -> StepPlan:
    config = {"url": url, "strip_html": True, "wait_for_selector": "main"}
    return StepPlan(key, "browser", 3.2, 0.03, config, **more)


def _branch(key: str, conditions: dict[str, tuple[str, ...]], otherwise: tuple[str, ...]) -> StepPlan:
    made = {
        name: {"condition": f"{{{{{key}.label}}}} == '{name}'", "destinations": list(to), "order": index}
        for index, (name, to) in enumerate(conditions.items())
    }
    return StepPlan(key, "branch", 0.005, 0.0, {"conditions": made, "else": list(otherwise)})


def _service(key: str, kind: str, action: str) -> StepPlan:
    made = {"type": kind, "action": action, "input": {"channel": "#ops", "text": "{{result}}"}}
    return StepPlan(key, "service", 0.35, 0.01, {"service": made})


def _child(key: str, **more: Any) -> StepPlan:
    return StepPlan(key, "workflow", 0.0, 0.004, {"input": {"text": "{{intake.text}}"}}, **more)


_SHOPFLOOR: Final = {"WEBHOOK": 6.0, "ENDPOINT": 3.0, "TEST": 0.6, "WORKFLOW": 0.2}
_NIGHTLY: Final = {"TRIGGER": 8.0, "TEST": 0.5, "WORKFLOW": 0.5}
_RECORDS: Final = {"RECORD": 7.0, "TRIGGER": 1.0, "TEST": 0.6}
_MANUAL: Final = {"ENDPOINT": 4.0, "WORKFLOW": 2.0, "TEST": 2.0}

BLUEPRINTS: Final = (
    Blueprint(
        "ticket_triage",
        "Ticket triage",
        "Labels each incoming ticket and routes it to the right queue.",
        ("text", "customer", "channel"),
        (
            _note("Owner: support ops. Ask before changing the labels! 🏷️"),
            _intake(webhook=True),
            _model("classify", "Label this ticket: {{intake.text}}", 1.6),
            _branch("route", {"billing": ("post_ticket",), "urgent": ("alert",)}, ("post_ticket",)),
            _http("post_ticket", "https://api.helpdesk.example/v2/tickets", "POST"),
            _service("alert", "slack", "post_message"),
        ),
        3.0,
        _SHOPFLOOR,
        tags=(0,),
    ),
    Blueprint(
        "account_digest",
        "Weekly account digest",
        "Collects what happened on each account and writes a digest; starts one triage for each open question.",
        ("text", "account_ids"),
        (
            _intake(),
            _http("fetch_accounts", "https://crm.example/api/accounts", loop="{{intake.account_ids}}"),
            _code("merge", "return inputs.fetch_accounts.flatMap(a => a.body.events)"),
            _model("write_digest", "Write a digest of: {{merge}}", 6.5),
            _child("follow_up"),
            _service("send_mail", "gmail", "send"),
        ),
        0.8,
        _NIGHTLY,
        tags=(1, 4),
        calls=("reply_drafts", "ticket_triage"),
    ),
    Blueprint(
        "invoice_extraction",
        "Invoice extraction — PDF → ledger",
        "Reads invoices page by page, checks the totals, books them.",
        ("text", "file_url", "vendor"),
        (
            _intake(webhook=True),
            _code("split_pages", "return pages(inputs.file_url).map(p => ({n: p.number, text: p.text}))"),
            _model("read_page", "Extract the line items of page {{item.n}}", 2.8, loop="{{split_pages}}"),
            _code("check_totals", "const t = sum(items); if (t !== header.total) throw new Error('differs'); return t"),
            _service("book", "google_sheets", "append_row"),
        ),
        1.6,
        _RECORDS,
        tags=(3, 4),
        retention_days=30,
        keeps_failures=True,
    ),
    Blueprint(
        "reply_drafts",
        "Reply drafts (agent)",
        "An agent that looks orders up and drafts the answer.",
        ("text", "customer"),
        (
            _intake(),
            _model("agent", "Help: {{intake.text}}", 7.5, tools=("lookup_order", "search_kb", "refund_quote")),
            _code("tidy", "return inputs.agent.message.trim()"),
            _http("save_draft", "https://api.helpdesk.example/v2/drafts", "PUT"),
        ),
        2.2,
        _MANUAL,
        tags=(0, 2),
    ),
    Blueprint(
        "lead_enrichment",
        "Lead enrichment",
        "Finds out who a lead is and scores it.",
        ("text", "email", "company"),
        (
            _intake(),
            _http("company_api", "https://enrich.example/v1/companies/find"),
            _browser("visit_site", "{{company_api.body.url}}"),
            _model("score", "Score this lead from 0 to 100: {{visit_site.body}}", 2.2),
            _branch("is_hot", {"hot": ("to_crm", "tell_sales")}, ("to_crm",)),
            _service("to_crm", "hubspot", "upsert_contact"),
            _service("tell_sales", "slack", "post_message"),
        ),
        2.4,
        _SHOPFLOOR,
        tags=(4,),
    ),
    Blueprint(
        "catalogue_refresh",
        "Nightly catalogue refresh",
        None,
        ("text", "skus"),
        (
            _intake(),
            _browser("crawl", "https://shop.example/p/{{item}}", loop="{{intake.skus}}"),
            _code("diff", "return changed(inputs.crawl, previous)"),
            _child("rewrite_copy", loop="{{diff.changed}}"),
            _http("publish", "https://shop.example/api/catalogue", "POST"),
        ),
        0.7,
        _NIGHTLY,
        tags=(1,),
        retention_days=45,
        calls=("localisation",),
    ),
    Blueprint(
        "localisation",
        "Content localisation 🌍",
        "Translates product copy and has it reviewed by a second model.",
        ("text", "languages"),
        (
            _intake(),
            _model("translate", "Translate to {{item}}: {{intake.text}}", 3.0, loop="{{intake.languages}}"),
            _model("review", "Is this a faithful translation? {{translate}}", 2.4),
            _code("assemble", "return Object.fromEntries(zip(languages, translate))"),
        ),
        1.4,
        _RECORDS,
        tags=(2,),
    ),
    Blueprint(
        "onboarding",
        "Onboarding concierge",
        "Sets a new account up and greets it.",
        ("text", "account"),
        (
            _note("Calls other workflows; keep their inputs in step."),
            _intake(),
            _http("create_account", "https://app.example/api/accounts", "POST"),
            _child("first_digest"),
            _model("welcome", "Write a warm welcome for {{intake.account}}", 2.0),
            _service("greet", "intercom", "send_message"),
        ),
        0.8,
        _RECORDS,
        tags=(0,),
        calls=("account_digest", "lead_enrichment"),
    ),
    Blueprint(
        "churn_watch",
        "Churn watch",
        "Scores every account each morning.",
        ("text", "segment"),
        (
            _intake(),
            _http("usage_export", "https://metrics.example/export?format=json"),
            _code("features", "return rows.map(toFeatures)"),
            _model("explain", "Why is this account at risk? {{features}}", 4.0),
            _service("write_back", "snowflake", "insert"),
        ),
        0.6,
        _NIGHTLY,
        tags=(1, 4),
        retention_days=14,
        keeps_failures=False,
    ),
    Blueprint(
        "contract_review",
        "Contract review",
        "Flags unusual clauses; a person decides.",
        ("text", "file_url"),
        (
            _intake(),
            _code("read_pdf", "return text(inputs.file_url)"),
            _model("find_clauses", "List unusual clauses: {{read_pdf}}", 11.0),
            _branch("needs_lawyer", {"yes": ("ping_legal",)}, ()),
            _service("ping_legal", "slack", "post_message"),
        ),
        0.9,
        _MANUAL,
        tags=(3,),
    ),
    Blueprint(
        "meeting_notes",
        "Meeting notes to tasks",
        "Turns a transcript into tasks.",
        ("text", "attendees"),
        (
            _intake(webhook=True),
            _model("summarise", "Summarise: {{intake.text}}", 5.0),
            _code("tasks", "return JSON.parse(inputs.summarise.message).tasks"),
            _service("create_tasks", "linear", "create_issue"),
        ),
        1.5,
        _SHOPFLOOR,
    ),
    Blueprint(
        "price_monitor",
        "Competitor price monitor",
        "Visits pages twice a day.",
        ("text", "urls"),
        (
            _intake(),
            _browser("visit", "{{item}}", loop="{{intake.urls}}"),
            _code("prices", "return inputs.visit.map(v => Number(v.body.match(/€([0-9.]+)/)[1]))"),
            _http("store", "https://prices.example/api/points", "POST"),
        ),
        1.0,
        _NIGHTLY,
        tags=(1,),
    ),
)
