"""Sample names, models, messages and errors. Data only."""

# ruff: noqa: RUF001 - real text contains look-alike characters

from __future__ import annotations

from typing import Final

APP_NAMES: Final = (
    "Northwind Support",
    "Lumen Growth",
    "Kestrel Logistics",
    "Café Zürich Retail",
    "Harbour Legal",
    "Orbit HR",
)

PEOPLE: Final = (
    ("usr_ada", "Ada Okafor"),
    ("usr_jonas", "Jonas Müller"),
    ("usr_mei", "陈美玲"),
    ("usr_renee", "Renée Dubois"),
    ("usr_svc", None),
    ("usr_tom", "Tom Whitfield"),
)

MODELS: Final = (
    ("openai", "gpt-4o", 0.0091),
    ("openai", "gpt-4o-mini", 0.00062),
    ("openai", "gpt-4.1", 0.0084),
    ("anthropic", "claude-3-5-sonnet-20241022", 0.0123),
    ("anthropic", "claude-3-haiku-20240307", 0.00081),
    ("google", "gemini-1.5-pro", 0.0077),
    ("google", "gemini-2.0-flash", 0.00044),
    ("mistral", "mistral-large-2411", 0.0058),
)
"""Provider, model, and the median credits of one call."""

TAG_NAMES: Final = (
    ("customer-facing", "#2f9e44"),
    ("nightly", "#364fc7"),
    ("experimental", "#e8590c"),
    ("pii", "#c92a2a"),
    ("revenue", "#f08c00"),
)

CUSTOMERS: Final = (
    "Brightwater Foods",
    "Société Générale de Thé",
    "Åkerlund & Söner",
    "Blue Finch Studio",
    "Ōtsuka Parts 株式会社",
    "Rivera Hermanos",
    "Pine & Patch",
    "Władysław Meble",
    "Delta Nine Robotics",
    "O'Malley's Bakery",
)

SUBJECTS: Final = (
    "Order arrived with a broken handle",
    "Invoice 2024-0117 was charged twice",
    "How do I change the shipping address?",
    "¿Dónde está mi pedido?",
    "Passwort zurücksetzen klappt nicht",
    "Love the new dashboard 🎉",
    "返品の手続きについて",
    "Cancel my subscription please",
    "API returns 403 since this morning",
    "Wrong size, want an exchange 👟",
    "VAT number missing on receipt",
    "Delivery window keeps moving",
)

SENTENCES: Final = (
    "The parcel was scanned in the Leipzig hub on Tuesday and has not moved since.",
    "We have seen the same on two other accounts, both after the plan was changed in the middle of a month.",
    "Please find the corrected amounts in the table below; the difference is due to rounding per line.",
    "Our warehouse in Gdańsk confirms 14 pallets, the remaining 3 follow with the next truck.",
    "The customer asked for a refund rather than a voucher, and mentioned a review on the marketplace.",
    'Quoting from the contract: "delivery within five working days", which was missed by two.',
    "Je vous remercie de votre patience et reste à votre disposition.",
    "Bitte prüfen Sie die beigefügten Unterlagen und melden Sie sich bis Freitag.",
    "No further action is needed from your side – we will update the ticket as soon as the carrier replies.",
    "Sentiment is negative but recoverable; suggest a call from the account owner within 24 hours.",
    "The page mentions a price of €1.299,00, a list price of €1.499,00 and free shipping over €50.",
    "次のステップとして、担当者から折り返しご連絡いたします。",
    "Top drivers this week: seasonal demand (+18 %), the spring campaign (+7 %), fewer returns (−3 %).",
    "The attachment could not be read in full: page 3 is a photograph of a handwritten note.",
    "Totals agree with the ledger except for one credit note that was booked on the following day.",
    "Great news 🚀 the integration is live, thank you for bearing with us!",
)

LOG_LINES: Final = (
    "starting",
    "fetched 25 rows in 182 ms",
    "cache miss, asking upstream",
    "retrying after 429 from upstream (attempt 2)",
    "parsed 3 attachments",
    "skipping empty line",
    "truncating context to 12000 tokens",
    "done",
)

FAILURES: Final = {
    "model": (
        "429 Rate limit reached for requests per min (RPM): Limit 500, Used 500, Requested 1.",
        "The model produced invalid JSON: Unexpected end of JSON input",
        "context_length_exceeded: This model's maximum context length is 128000 tokens.",
        "Overloaded",
    ),
    "code": (
        "TypeError: Cannot read properties of undefined (reading 'items')",
        "ReferenceError: total is not defined",
        "Script timed out after 30000 ms",
        "SyntaxError: Unexpected token '<', \"<!DOCTYPE \"... is not valid JSON",
    ),
    "http_request": (
        "Request failed with status code 502",
        "getaddrinfo ENOTFOUND api.helpdesk.example",
        "connect ETIMEDOUT 203.0.113.10:443",
        "Request failed with status code 401",
    ),
    "browser": (
        "net::ERR_CERT_DATE_INVALID at https://shop.example/",
        "Waiting for selector `.price` failed: timeout 30000 ms exceeded",
        "Navigation failed because browser has disconnected!",
    ),
    "workflow": ("The child workflow failed", "Maximum workflow depth reached"),
    "service": (
        "slack: channel_not_found",
        "hubspot: Property values were not valid",
        "google_sheets: Quota exceeded for quota metric 'Write requests'",
    ),
}
"""Error messages by type of the failing step."""

LANGUAGES: Final = (
    ("de", "Robuster Wanderstiefel, wasserdicht, 620 g"),
    ("fr", "Chaussure de randonnée robuste, imperméable, 620 g"),
    ("ja", "防水仕様の頑丈なハイキングブーツ、620グラム"),
    ("ar", "حذاء متين للمشي لمسافات طويلة، مقاوم للماء"),
    ("pt-BR", "Bota de caminhada resistente à água, 620 g"),
    ("pl", "Wytrzymały but trekkingowy, wodoodporny, 620 g"),
    ("tr", "Dayanıklı, su geçirmez yürüyüş botu, 620 g"),
    ("el", "Ανθεκτικό αδιάβροχο μποτάκι πεζοπορίας"),
)

URLS: Final = (
    "https://shop.example/p/4711",
    "https://www.brightwater.example/about",
    "https://news.example/2026/press?lang=en&ref=home",
    "https://bücher.example/katalog",
    "https://status.carrier.example/track/1Z999AA10123456784",
)
