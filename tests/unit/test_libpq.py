"""Database URLs are interpreted as by libpq."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from etl.config import load
from etl.config.libpq import complete, parameters_of, unused_variables, url_of
from etl.errors import SettingsError

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize(
    ("url", "parameters"),
    [
        ("postgresql://", {}),
        ("postgres:///", {}),
        ("postgresql://u:p%40%2F@h:1/d", {"user": "u", "password": "p@/", "host": "h", "port": "1", "dbname": "d"}),
        ("postgresql://h1,h2:2/", {"host": "h1,h2", "port": ",2"}),
        ("postgresql://[::1]:5432/d", {"host": "::1", "port": "5432", "dbname": "d"}),
        ("postgresql:///d?host=::1", {"host": "::1", "dbname": "d"}),
        ("postgresql:///?host=[::1],/run/pg&port=1,2", {"host": "::1,/run/pg", "port": "1,2"}),
        ("postgresql://%2Frun%2Fpg/d", {"host": "/run/pg", "dbname": "d"}),
        (
            "postgresql://u@h/d?password=a+b%26c&dbname=e",
            {"user": "u", "host": "h", "dbname": "e", "password": "a+b&c"},
        ),
        ("postgresql://?service=x&ssl=true", {"service": "x", "sslmode": "require"}),
    ],
)
def test_url_has_these_parameters(url: str, parameters: dict[str, str]) -> None:
    assert parameters_of(url) == parameters
    assert parameters_of(url_of(parameters)) == {
        name: ",".join(each or "5432" for each in value.split(","))
        if name == "port" and "/" in parameters["host"]
        else value
        for name, value in parameters.items()
    }


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hunter@2@h/d",
        "postgresql://u:hunter/2@h/d",
        "postgresql://u:1/hunter@h/d",
        "postgresql://u:hunter#2@h/d",
        "postgresql://u:hunter?2@h/d",
        "postgresql://u:1?hunter@h/d",
        "postgresql://u:hunter:2/d",
    ],
)
def test_unescaped_password_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"@ : in the user and the password written as") as refused:
        parameters_of(url)
    assert "hunter" not in str(refused.value)


def test_variables_complete_a_url() -> None:
    variables = {"PGHOST": "db.example", "PGPORT": "6543", "PGDATABASE": "runs", "PGUSER": "me", "PGPASSWORD": "p w"}
    assert complete("postgresql://", variables) == "postgresql://me:p%20w@db.example:6543/runs"
    assert complete("postgresql:///", variables) == "postgresql://me:p%20w@db.example:6543/runs"
    assert complete("postgresql://you@h/d", variables) == "postgresql://you:p%20w@h:6543/d"
    assert complete("postgresql://h/d?user=u", {}) == "postgresql://u@h/d"
    assert complete("postgresql:///d", {"PGHOST": "/run/pg"}) == f"postgresql://{ACCOUNT}@/d?host=/run/pg"
    assert complete("postgresql:///d", {"PGHOST": "::1"}) == f"postgresql://{ACCOUNT}@[::1]/d"
    assert complete("postgresql://h", {"PGSSLMODE": "require"}) == f"postgresql://{ACCOUNT}@h/?sslmode=require"
    assert complete("postgresql://h", {"PGHOSTADDR": "10.0.0.1"}) == f"postgresql://{ACCOUNT}@10.0.0.1"


def test_service_completes_a_url(tmp_path: Path) -> None:
    file = tmp_path / "services"
    file.write_text(
        "# ours\n[x]\nhost=db.example\nport=6543\nuser=me\npassword=100%=\nsslmode=require\n[y]\nhost=other\n"
    )
    own = {"PGSERVICEFILE": str(file)}
    whole = "postgresql://me:100%25%3D@db.example:6543/d?sslmode=require"
    assert complete("postgresql:///d?service=x", own) == whole
    assert complete("postgresql:///d", own | {"PGSERVICE": "x", "PGHOST": "not.used"}) == whole
    assert complete("postgresql://h/d?service=y", own) == f"postgresql://{ACCOUNT}@h/d"
    (tmp_path / ".pg_service.conf").write_text("[y]\nhost=theirs\n")
    assert complete("postgresql:///d?service=y", {"HOME": str(tmp_path)}) == f"postgresql://{ACCOUNT}@theirs/d"
    (tmp_path / "pg_service.conf").write_text("[z]\nhost=system\n")
    system = own | {"PGSYSCONFDIR": str(tmp_path)}
    assert complete("postgresql:///d?service=z", system) == f"postgresql://{ACCOUNT}@system/d"


def test_unknown_service_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("database:\n  url: postgresql:///?service=nope\n")
    settings = load(path, {"HOME": str(tmp_path)})
    with pytest.raises(
        SettingsError, match=r"config.yaml:2: database.url: there is no service 'nope' in .*pg_service"
    ) as error:
        settings.database_url()
    assert "[nope]" in error.value.hint
    (tmp_path / ".pg_service.conf").write_text("no section\n")
    with pytest.raises(SettingsError, match=r"pg_service\.conf: File contains no section headers"):
        settings.database_url()


def test_password_comes_from_pgpass(tmp_path: Path) -> None:
    file = tmp_path / ".pgpass"
    file.write_text(
        "# host:port:database:user:password\n"
        "other:*:*:*:wrong\n"
        r"h:5432:a\:b:me:p\:\\w"
        "\n"
        "localhost:5432:*:me:socket\n"
        "*:*:*:you:any\n"
    )
    file.chmod(0o600)
    home = {"HOME": str(tmp_path)}
    assert parameters_of(complete("postgresql://me@h/a%3Ab", home))["password"] == r"p:\w"
    assert "password" not in parameters_of(complete("postgresql://me@h/other", home))
    assert "password" not in parameters_of(complete("postgresql://me@h:1/a%3Ab", home))
    assert parameters_of(complete("postgresql://me@/d?host=/run/pg", home))["password"] == "socket"
    assert parameters_of(complete("postgresql://me@/d", home))["password"] == "socket"
    assert parameters_of(complete("postgresql://you@h1,h2/d", home))["password"] == "any"
    assert parameters_of(complete("postgresql://you:own@h/d", home))["password"] == "own"
    for named in ({"PGPASSFILE": str(file)}, {}):
        query = "" if named else f"?passfile={file}"
        assert parameters_of(complete(f"postgresql://you@h/d{query}", named))["password"] == "any"
    file.chmod(0o640)  # libpq ignores what others can read
    assert "password" not in parameters_of(complete("postgresql://you@h/d", home))


def test_variables_without_effect_are_reported() -> None:
    variables = {"PGHOST": "db", "PGUSER": "me", "PGPASSWORD": "secret", "PGSSLMODE": "require", "PGPORT": ""}
    assert unused_variables(None, variables) == ["PGHOST", "PGUSER", "PGPASSWORD"]
    assert unused_variables("postgresql://", variables) == []
    assert unused_variables("postgresql://db/d", variables) == []
    assert unused_variables("postgresql://you:p@other/d", variables) == ["PGHOST", "PGUSER", "PGPASSWORD"]
    assert unused_variables("postgresql://you@other/d", {"PGPASSFILE": "f", "PGPASSWORD": "p"}) == ["PGPASSFILE"]


def test_passwords_from_other_sources_are_masked(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("database: {url: 'postgresql://'}\n")
    settings = load(path, {"PGPASSWORD": "hunter2", "PGHOST": "h"})
    assert any("hunter2" in url for url in settings.database_urls())
