"""Errors in settings name the file, the line, the key and the expected value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from etl.config import load
from etl.errors import SettingsError

# case, file, line, key, part of the message, part of the hint
IN_FILE = [
    (
        "type: whole number",
        "api:\n  concurrency: many\n",
        2,
        "api.concurrency",
        "expected an integer, got 'many'",
        "",
    ),
    ("type: fraction", "api:\n  concurrency: 1.5\n", 2, "api.concurrency", "expected an integer, got 1.5", ""),
    ("type: boolean", "api:\n  verbose: maybe\n", 2, "api.verbose", "expected true or false", ""),
    ("type: number for text", "apps:\n  - id: 123\n", 2, "apps[0].id", "expected text (quote it)", ""),
    (
        "type: date for text",
        "apps:\n  - id: 2024-01-01\n",
        2,
        "apps[0].id",
        "expected text (quote it), got 2024-01-01",
        "",
    ),
    ("type: path", "data_dir: 5\n", 1, "data_dir", "expected a path, got 5", ""),
    (
        "type: list for text",
        "database:\n  schema: [a]\n",
        2,
        "database.schema",
        "expected text (quote it), got a list",
        "",
    ),
    ("type: text for list", "apps: app_1\n", 1, "apps", "expected a list, got 'app_1'", ""),
    ("type: text for app", "apps:\n  - app_1\n", 2, "apps[0]", "expected a section, got 'app_1'", ""),
    ("type: value for section", "api: 3\n", 1, "api", "expected a section, got 3", ""),
    ("type: no blank after colon", "api:\n  base_url:https://x\n", 1, "api", "expected a section", ""),
    ("null", "api:\n  concurrency:\n", 2, "api.concurrency", "expected an integer, got null", ""),
    ("range: too small", "api:\n  concurrency: 0\n", 2, "api.concurrency", "expected at least 1, got 0", "line 2"),
    (
        "page size",
        "api:\n  page_size: 0\n",
        2,
        "api.page_size",
        "expected auto, or a number from 1 to 10,000, got 0",
        "",
    ),
    ("page size: text", "api:\n  page_size: big\n", 2, "api.page_size", "expected auto, or a number from 1 to", ""),
    ("range: too large", "api:\n  concurrency: 65\n", 2, "api.concurrency", "expected at most 64, got 65", "line 2"),
    ("range: zero seconds", "api:\n  timeout_s: 0\n", 2, "api.timeout_s", "expected more than 0", ""),
    ("range: not finite", "api:\n  timeout_s: .inf\n", 2, "api.timeout_s", "got inf", ""),
    ("unit: too many minutes", "api:\n  timeout_s: 90m\n", 2, "api.timeout_s", "expected at most 3600, got 5400", ""),
    ("unit: unknown in seconds", "api:\n  timeout_s: 1 min\n", 2, "api.timeout_s", "expected a duration such as", ""),
    (
        "unit: unknown",
        "sync:\n  lookback: 1 hour\n",
        2,
        "sync.lookback",
        "expected a duration such as 45s, 10m, 1h or 7d",
        "",
    ),
    ("unit: negative", "sync:\n  reconcile_every: -1h\n", 2, "sync.reconcile_every", "got '-1h'", ""),
    ("unit: beyond all time", "sync:\n  lookback: 99999999999999d\n", 2, "sync.lookback", "expected a duration", ""),
    ("unit: boolean", "sync:\n  lookback: true\n", 2, "sync.lookback", "or a number of seconds, got true", ""),
    ("typo: key", "api:\n  concurency: 4\n", 2, "api.concurency", "unknown key", "Did you mean concurrency?"),
    ("typo: dash", "api:\n  page-size: 4\n", 2, "api.page-size", "unknown key", "Did you mean page_size?"),
    ("typo: case", "api:\n  Key: sk-1\n", 2, "api.Key", "unknown key", "Did you mean key?"),
    ("typo: section", "\ndatabse:\n  url: null\n", 2, "databse", "unknown key", "Did you mean database?"),
    (
        "typo: enumeration",
        "api:\n  origin: Webhok\n",
        2,
        "api.origin",
        "expected ALL, WORKFLOW,",
        "Did you mean WEBHOOK?",
    ),
    ("typo: lower case", "api:\n  status: failed\n", 2, "api.status", "got 'failed'", "Did you mean FAILED?"),
    ("typo: spelling", "payloads:\n  retention: honor\n", 2, "payloads.retention", "keep or honour", "mean honour?"),
    (
        "wrong place",
        "requests_per_minute: 9\n",
        1,
        "requests_per_minute",
        "unknown key",
        "Move it to api.requests_per_minute",
    ),
    ("unknown for good", "api:\n  zzz: 1\n", 2, "api.zzz", "unknown key; expected one of base_url, key,", "Remove it."),
    ("typo: section in capitals", "API:\n  page_size: 4\n", 1, "API", "unknown key", "Did you mean api?"),
    ("typo: name inside", "database:\n  schema_name: x\n", 2, "database.schema_name", "unknown key", "mean schema?"),
    ("type: boolean for number", "api:\n  concurrency: true\n", 2, "api.concurrency", "expected a number", ""),
    (
        "type: boolean for seconds",
        "api:\n  timeout_s: yes\n",
        2,
        "api.timeout_s",
        "or a number of seconds, got true",
        "",
    ),
    ("type: minutes and seconds", "api:\n  concurrency: 1:30\n", 2, "api.concurrency", "got '1:30'", ""),
    ("unit: hours as a clock has them", "sync:\n  lookback: 1:00:00\n", 2, "sync.lookback", "got '1:00:00'", ""),
    ("unit: beyond a century", "sync:\n  lookback: 99999d\n", 2, "sync.lookback", "at most 36500d", ""),
    ("path: empty", "data_dir: ''\n", 1, "data_dir", "expected a path", ""),
    (
        "path: nobody's home",
        "data_dir: ~nobody-here/x\n",
        1,
        "data_dir",
        "a path (there is no home directory ~nobody-here)",
        "",
    ),
    ("path: no home", "metrics: {file: ~nobody-here/x}\n", 1, "metrics.file", "no home directory ~nobody-here", ""),
    (
        "path: no home of a key",
        "api: {key_file: ~nobody-here/x}\n",
        1,
        "api.key_file",
        "no home directory ~nobody-here",
        "",
    ),
    ("path: NUL", 'metrics:\n  file: "a\\0b"\n', 2, "metrics.file", "expected a path", ""),
    ("tab: indentation", "api:\n\tkey: x\n", 2, "", "does not allow tabs", "Replace the tab"),
    ("variable: missing", "database:\n  url: ${NOPE}\n", 2, "database.url", "variable NOPE is not set", "export NOPE="),
    ("variable: nested", "data_dir: ${A:-${B:-c}}\n", 1, "data_dir", "${A:-${B:-c} is nested", "${NAME:-default}"),
    (
        "variable: malformed",
        "api:\n  base_url: ${a-b}\n",
        2,
        "api.base_url",
        "${a-b} is not a reference",
        "${NAME:-default}",
    ),
    ("variable: not closed", "api:\n  base_url: ${HOME\n", 2, "api.base_url", "${HOME is not a reference", "${NAME}"),
    ("app: twice", "apps:\n  - id: a\n  - id: b\n  - id: a\n", 4, "apps[2].id", "duplicate app", "remove one"),
    ("app: no id", "apps:\n  - workflows: all\n", 2, "apps[0].id", "is missing", "Add `id: ...`"),
    ("app: blank id", "apps:\n  - id: ' '\n", 2, "apps[0].id", "expected an id such as app_123, got ' '", ""),
    (
        "workflows: empty id",
        "apps:\n  - id: a\n    workflows:\n      - w\n      - ''\n",
        5,
        "apps[0].workflows[1]",
        "expected an id",
        "",
    ),
    ("joined key", "api_key: sk-1\n", 1, "api_key", "unknown key", "Did you mean api.key?"),
    (
        "workflows: word",
        "apps:\n  - id: a\n    workflows: every\n",
        3,
        "apps[0].workflows",
        "all, or a list of workflow ids",
        "",
    ),
    ("workflows: all in a list", "apps:\n  - id: a\n    workflows: [all]\n", 3, "apps[0].workflows", "brackets", ""),
    ("app: control character", 'apps:\n  - id: "a\\0"\n', 2, "apps[0].id", "an id such as app_123", ""),
    ("workflows: none", "apps:\n  - id: a\n    workflows: []\n", 3, "apps[0].workflows", "all, or a list", ""),
    (
        "workflows: twice",
        "apps:\n  - id: a\n    workflows: [x, x]\n",
        3,
        "apps[0].workflows",
        "x is listed twice",
        "",
    ),
    (
        "workflows: numbers",
        "apps:\n  - id: a\n    workflows: [1]\n",
        3,
        "apps[0].workflows",
        "a list of workflow ids",
        "",
    ),
    (
        "key: newline at its end",
        'api:\n  key: "sk-1\\n"\n',
        2,
        "api.key",
        "an API key without a trailing line break",
        "",
    ),
    ("key: blank inside", "api:\n  key: sk 1\n", 2, "api.key", "an API key of printable ASCII without spaces", ""),
    ("key: number", "api:\n  key: 123\n", 2, "api.key", "quote it", ""),
    ("key: variable without braces", "api:\n  key: $MINE\n", 2, "api.key", "a variable written as ${NAME}", ""),
    ("key file: NUL", 'api:\n  key_file: "a\\0"\n', 2, "api.key_file", "expected a path", ""),
    ("URL: with a path", "api:\n  base_url: https://a.b/v1\n", 2, "api.base_url", "without a path: https://a.b", ""),
    ("URL: with a query", "api:\n  base_url: https://a.b?x=1\n", 2, "api.base_url", "without a path: https://a.b", ""),
    ("URL: http", "api:\n  base_url: http://a.b\n", 2, "api.base_url", "expected https://a.b", ""),
    ("URL: no scheme", "api:\n  base_url: a.b\n", 2, "api.base_url", "a URL such as https://", ""),
    ("URL: port", "api:\n  base_url: https://a:99999\n", 2, "api.base_url", "a port from 1 to 65535", ""),
    ("URL: with a user", "api:\n  base_url: https://me:hunter2@a.b\n", 2, "api.base_url", "not shown", ""),
    ("URL: control character", 'api:\n  base_url: "https://a\\x01.b"\n', 2, "api.base_url", "a URL such as", ""),
    ("URL: no name", "api:\n  base_url: https://a..b\n", 2, "api.base_url", "a URL such as https://", ""),
    ("URL: bracket", 'api:\n  base_url: "https://[::1"\n', 2, "api.base_url", "a URL such as https://", ""),
    ("URL: port without number", "api:\n  base_url: 'https://a.b:'\n", 2, "api.base_url", "a port from 1", ""),
    ("URL: looks local", "api:\n  base_url: http://localhost.evil.com\n", 2, "api.base_url", "loopback hosts only", ""),
    ("database: port", "database:\n  url: postgresql://u:hunter2@h:abc/d\n", 2, "database.url", "a port from 1", ""),
    ("database: bare slash", "database:\n  url: postgresql://u:hunter2/x@h/d\n", 2, "database.url", "%2F", ""),
    ("database: bare at sign", "database:\n  url: postgresql://u:hunter2@x@h/d\n", 2, "database.url", "%40", ""),
    ("database: bare at and slash", "database:\n  url: postgresql://u:1/hunter2@x@h/d\n", 2, "database.url", "%40", ""),
    ("database: bare question mark", "database:\n  url: postgresql://u:1?hunter2@h/d\n", 2, "database.url", "%3F", ""),
    ("database: bare hash", "database:\n  url: postgresql://u:1#hunter2@h/d\n", 2, "database.url", "%23", ""),
    ("database: slash after digits", "database:\n  url: postgresql://u:1/hunter2@h/d\n", 2, "database.url", "%2F", ""),
    ("database: bare bracket", "database:\n  url: 'postgresql://u:[hunter2@h/d'\n", 2, "database.url", "%5B", ""),
    ("database: sslmode", "database:\n  url: postgresql://h/d?sslmode=on\n", 2, "database.url", "verify-full for", ""),
    ("database: other kind", "database:\n  url: mysql://u:hunter2@h/d\n", 2, "database.url", "postgresql://USER:", ""),
    ("schema: not plain", "database:\n  schema: My-Schema\n", 2, "database.schema", "a name of a-z, 0-9 and _", ""),
    ("schema: reserved", "database:\n  schema: pg_mine\n", 2, "database.schema", "not beginning with pg_", ""),
    ("redact: no list", "payloads:\n  redact: $.a\n", 2, "payloads.redact", "expected a list, got '$.a'", ""),
    (
        "redact: not closed",
        "payloads:\n  redact: ['$.a[']\n",
        2,
        "payloads.redact[0]",
        "a JSON path such as $.input",
        "",
    ),
    ("redact: no path", "payloads:\n  redact: [a.b]\n", 2, "payloads.redact[0]", "a JSON path such as $.input", ""),
    (
        "hashing: no salt",
        "payloads:\n  redact_by: hash\n",
        1,
        "payloads.redact_salt",
        "is missing",
        "Add `redact_salt:",
    ),
    ("hashing: short salt", "payloads:\n  redact_salt: hunter2\n", 2, "payloads.redact_salt", "16 characters", ""),
    ("webhook: no URL", "alerts:\n  ping_url: hc-ping.com/hunter2\n", 2, "alerts.ping_url", "a URL such as", ""),
    (
        "webhook: other kind",
        "alerts:\n  on_state_change: ftp://a.b/hunter2\n",
        2,
        "alerts.on_state_change",
        "a URL such as",
        "",
    ),
    (
        "rule: unknown",
        "alerts:\n  enable: [spending]\n",
        2,
        "alerts.enable[0]",
        "expected daily_spend, failure_rate, stuck_runs or unknown_values, got 'spending'",
        "Change line 2 of",
    ),
    ("rule: misspelled", "alerts:\n  enable: [stuck_run]\n", 2, "alerts.enable[0]", "", "Did you mean stuck_runs?"),
    (
        "rule: name taken",
        "alerts:\n  rules:\n  - {name: stuck_runs, sql: SELECT 1}\n",
        3,
        "alerts.rules[0].name",
        "expected a name that no other rule has, got 'stuck_runs'",
        "Change line 3",
    ),
    ("rule: no query", "alerts:\n  rules: [{name: a}]\n", 2, "alerts.rules[0].sql", "is missing", "Add `sql: ...`"),
    ("rule: odd name", "alerts:\n  rules: [{name: a b, sql: SELECT 1}]\n", 2, "alerts.rules[0].name", "a name of", ""),
    (
        "rule: no duration",
        "alerts:\n  rules: [{name: a, sql: SELECT 1, for: soon}]\n",
        2,
        "alerts.rules[0].for",
        "a duration such as",
        "",
    ),
    (
        "key twice",
        "api:\n  page_size: 3\n  page_size: 4\n",
        3,
        "api.page_size",
        "duplicate key, first set on line 2",
        "Keep one",
    ),
    ("not a mapping: list", "- a\n", 1, "", "got a list", "cortex-etl init"),
    ("not a mapping: word", "hello\n", 1, "", "got a single value", "cortex-etl init"),
    ("syntax: bracket", "api:\n  key: [a\n", 3, "", "invalid YAML", "missing colon, quote"),
    ("syntax: quote", "api:\n  key: 'abc\n", 3, "", "invalid YAML", "missing colon, quote"),
    ("syntax: colon", "api\n  key: abc\n", 2, "", "invalid YAML", "missing colon, quote"),
    ("syntax: two documents", "api: {}\n---\napi: {}\n", 2, "", "another document", ""),
    ("a list for a key", "? [a]\n: 3\n", 1, "", "expected a key, got a list", ""),
    (
        "alias: without end",
        "api: &a\n  x: *a\n",
        2,
        "",
        "aliases such as *a are not supported",
        "Write the value again",
    ),
    (
        "alias: value",
        "api:\n  timeout_s: &t 5\nsync:\n  lookback: *t\n",
        4,
        "",
        "aliases such as *t",
        "Write the value",
    ),
    ("alias: merge key", "api: &a {}\nsync:\n  <<: *a\n", 3, "", "aliases such as *a", "Write the value again"),
    ("merge key", "api:\n  <<: {key: a}\n", 2, "api.<<", "unknown key", ""),
    ("many levels", "api:\n  key: " + "[" * 18 + "\n" + "[" * 12 + "]" * 30 + "\n", 3, "", "nested too deeply", "init"),
    ("many indentations", "".join(f"{' ' * n}a:\n" for n in range(30)), 21, "", "nested too deeply", "init"),
]


def problem(path: Path, environment: dict[str, str]) -> SettingsError:
    with pytest.raises(SettingsError) as caught:
        load(path, environment)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


@pytest.mark.parametrize(
    ("text", "line", "key", "says", "hint"), [case[1:] for case in IN_FILE], ids=[c[0] for c in IN_FILE]
)
def test_errors_in_the_file(tmp_path: Path, text: str, line: int, key: str, says: str, hint: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    error = problem(path, {})
    assert error.message.startswith(f"{path}:{line}: {key}")
    assert says in error.message
    assert hint in error.hint
    assert "\n" not in error.message
    assert "hunter2" not in f"{error} {error.hint}"


@pytest.mark.parametrize(
    ("content", "says", "hint"),
    [
        (None, "No such file", "Fix the path"),
        (b" \n", "is empty", "Write the "),
        (b"\xff\xfe\x00", "not text", "Fix the path"),
    ],
)
def test_unreadable_secret_file_fails_only_if_needed(
    tmp_path: Path, content: bytes | None, says: str, hint: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("api: {key_file: s}\ndatabase: {url_file: s}\napps: [{id: a, key_file: s}, {id: b, key: sk-b}]\n")
    if content is not None:
        (tmp_path / "s").write_bytes(content)
    settings = load(path, {"CORTEX_API_KEY": "sk-another", "DATABASE_URL": "postgresql://another/one"})
    assert settings.names_database
    assert settings.require_key(settings.apps[1]).get_secret_value() == "sk-b"
    for place, ask in (
        ("1: api.key_file", settings.require_key),
        ("2: database.url_file", settings.database_url),
        ("3: apps[0].key_file", lambda: settings.require_key(settings.apps[0])),
    ):
        with pytest.raises(SettingsError) as caught:
            ask()
        assert caught.value.message.startswith(f"{path}:{place}: ")
        assert says in caught.value.message
        assert hint in caught.value.hint


IN_ENVIRONMENT = [
    ("typo: key", {"CORTEX_ETL__API__CONCURENCY": "4"}, "api.concurency: unknown key", "Did you mean concurrency?"),
    ("typo: section", {"CORTEX_ETL__APII__KEY": "4"}, "apii: unknown key", "Did you mean api?"),
    ("type", {"CORTEX_ETL__API__CONCURRENCY": "x"}, "expected an integer, got 'x'", "unset it"),
    (
        "one underscore",
        {"CORTEX_ETL_API__KEY": "hunter2"},
        "begin with CORTEX_ETL__",
        "Rename it to CORTEX_ETL__API__KEY",
    ),
    (
        "one underscore twice",
        {"CORTEX_ETL_API_KEY": "hunter2"},
        "begin with CORTEX_ETL__",
        "Rename it to CORTEX_ETL__API__KEY",
    ),
    ("one underscore, section", {"CORTEX_ETL_APPS": "[]"}, "begin with CORTEX_ETL__", "Rename it to CORTEX_ETL__APPS"),
    (
        "one underscore, no key",
        {"CORTEX_ETL_X__Y": "1"},
        "begin with CORTEX_ETL__",
        "Rename it to CORTEX_ETL__SECTION__KEY",
    ),
    ("one underscore inside", {"CORTEX_ETL__API_KEY": "hunter2"}, "unknown key", "Did you mean CORTEX_ETL__API__KEY?"),
    ("wrong place", {"CORTEX_ETL__PAGE_SIZE": "7"}, "unknown key", "Move it to CORTEX_ETL__API__PAGE_SIZE."),
    ("no section", {"CORTEX_ETL__API": "4"}, "expected a section, got '4'", "unset it"),
    ("no key", {"CORTEX_ETL__": "4"}, "the name of a key is missing", "CORTEX_ETL__SECTION__KEY"),
    ("invalid JSON", {"CORTEX_ETL__APPS": '[{"id"'}, "invalid JSON", "Fix its value"),
    ("too deep", {"CORTEX_ETL__API__KEY__X": "hunter2"}, "got a value that is not shown", "unset it"),
    ("no such date", {"CORTEX_ETL__APPS": "[{id: 2024-13-45}]"}, "invalid JSON", "Fix its value"),
    ("bottomless", {"CORTEX_ETL__APPS": "[" * 5000}, "APPS: nested too deeply", "Simplify it"),
    ("deep", {"CORTEX_ETL__APPS": "[" * 200 + "]" * 200}, "APPS: nested too deeply", "unset CORTEX_ETL__APPS"),
    ("without an end", {"CORTEX_ETL__APPS": "&a [*a]"}, "expected a list, got '&a [*a]'", "unset it"),
    (
        "within itself",
        {"CORTEX_ETL__APPS": "[&a [*a]]"},
        "APPS: aliases such as *a are not supported",
        "unset CORTEX_ETL__APPS",
    ),
    ("into a list", {"CORTEX_ETL__APPS__0__ID": "a"}, "apps is not a section", "CORTEX_ETL__APPS"),
    ("key: newline", {"CORTEX_API_KEY": "sk-hunter2\n"}, "without a trailing line break", "Set CORTEX_API_KEY"),
    ("database: other kind", {"DATABASE_URL": "mysql://hunter2"}, "postgresql://USER", "Set DATABASE_URL"),
]


@pytest.mark.parametrize(
    ("environment", "says", "hint"), [case[1:] for case in IN_ENVIRONMENT], ids=[case[0] for case in IN_ENVIRONMENT]
)
def test_errors_in_the_environment(tmp_path: Path, environment: dict[str, str], says: str, hint: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")
    error = problem(path, environment)
    assert error.message.startswith(f"environment variable {next(iter(environment))}: ")
    assert says in error.message
    assert hint in error.hint
    assert "hunter2" not in f"{error} {error.hint}"


def test_unrelated_variables_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("")
    of_kubernetes = {"CORTEX_ETL_SERVICE_HOST": "10.0.0.1", "CORTEX_ETL_PORT": "tcp://10.0.0.1:80"}
    load(tmp_path / "config.yaml", of_kubernetes | {"MY_CORTEX_ETL_APPS": "x"})


@pytest.mark.parametrize("place", ["environment", ".env"])
@pytest.mark.parametrize(
    ("text", "name", "value", "key"),
    [
        ("api:\n  key: ${MY_KEY}\n", "MY_KEY", "sk hunter2", "api.key"),
        ("api:\n  concurrency: ${MANY:-3}\n", "MANY", "x", "api.concurrency"),
        ("apps:\n  - {id: a, workflows: [w, '${WORKFLOW}']}\n", "WORKFLOW", " ", "apps[0].workflows[1]"),
    ],
)
def test_invalid_value_of_a_variable_names_the_variable(
    tmp_path: Path, text: str, name: str, value: str, key: str, place: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    if place == ".env":
        (tmp_path / ".env").write_text(f"{name}='{value}'\n")
    error = problem(path, {} if place == ".env" else {name: value})
    if place == ".env":
        assert error.message.startswith(f"{path}:2, variable {name} in {tmp_path / '.env'}: {key}: expected ")
        assert error.hint == f"Set {name} in {tmp_path / '.env'} to a valid value."
    else:
        assert error.message.startswith(f"{path}:2, environment variable {name}: {key}: expected ")
        assert error.hint == f"Set {name} to a valid value."
    assert "hunter2" not in f"{error} {error.hint}"


def test_invalid_default_in_the_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("api:\n  concurrency: ${MANY:-x}\n")
    assert problem(path, {}).message.startswith(f"{path}:2: api.concurrency: ")


def test_all_errors_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("api:\n  concurrency: x\n  page_size: y\n")
    lines = problem(path, {}).message.splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == ["api.concurrency", "api.page_size"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "directory"),
        (lambda path: path.write_bytes(b"api:\n  key: \xff\xfe\n"), "not UTF-8"),
        (lambda path: path.write_bytes(b"api: \x01\n"), "invalid YAML"),
        (lambda path: path.write_text("a: " + "[" * 5000), "nested too deeply"),
        (lambda path: path.write_text("a: 1\n" * 300_000), "larger than 1 MiB"),
        (lambda path: path.symlink_to("/dev/zero"), "larger than 1 MiB"),
    ],
    ids=["missing", "a folder", "not text", "control characters", "bottomless", "large", "endless"],
)
def test_unreadable_file(tmp_path: Path, make: Any, says: str) -> None:
    path = tmp_path / "config.yaml"
    make(path)
    error = problem(path, {})
    assert error.message.startswith(str(path))
    assert says in error.message


def test_yaml_aliases_cannot_exhaust_memory(tmp_path: Path) -> None:
    """Each level refers ten times to the one before it: 10^20 values."""
    levels = [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}' if n else 'x'] * 10)}]" for n in range(20)]
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(levels) + "\n")
    assert problem(path, {}).message == f"{path}:2: aliases such as *l0 are not supported"
    bomb = "[&a [x], [" + ", ".join(["*a"] * 9) + "]]"
    path.write_text("api: {}\n")
    said = problem(path, {"CORTEX_ETL__APPS": bomb}).message
    assert said == "environment variable CORTEX_ETL__APPS: aliases such as *a are not supported"


@pytest.mark.parametrize("name", [".env", "key"])
def test_endless_file_beside_the_settings(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("api: {key_file: key}\napps: [{id: a}]\n")
    (tmp_path / name).write_text("A=1\n" * 300_000)
    with pytest.raises(SettingsError, match="larger than 1 MiB"):
        load(path, {}).require_key()
