"""Find psql, and build the environment with which it connects to the warehouse."""

from __future__ import annotations

import os
import shutil
import subprocess

from etl.errors import DatabaseError, SettingsError

_PROBE = "SELECT current_setting('is_superuser'), current_setting('transaction_read_only')"
_PROBE_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = "15"  # unless the URL names another


def find_psql() -> str:
    """Return the path of psql: the one on the PATH, else that of the embedded server.

    Raises:
        SettingsError: there is none.
    """
    if (program := shutil.which("psql")) is not None:
        return program
    from etl.db import embedded

    try:
        return str(embedded.program("psql"))
    except DatabaseError:
        raise SettingsError(
            "psql is not installed", hint='Install postgresql-client, or use: cortex-etl sql "..."'
        ) from None


def environment(url: str, schema: str) -> dict[str, str]:
    """Return the environment for psql: the URL, so that `ps` does not show the password, and the search_path."""
    from etl.config.libpq import VARIABLES, parameters_of

    given = {VARIABLES.get(name, f"PG{name.upper()}"): value for name, value in parameters_of(url).items()}
    others = {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}
    found = {"PGCONNECT_TIMEOUT": _CONNECT_TIMEOUT_S} | others | given
    return _with_options(found, f"search_path={schema}")


def kept_read_only(program: str, variables: dict[str, str]) -> dict[str, str]:
    """Return an environment for psql in which transactions are read-only, without the rights of a superuser.

    A pooler may ignore these settings, so a first connection checks that they hold.

    Raises:
        DatabaseError: psql cannot connect, or would not be read-only.
    """
    variables = _with_options(variables, "default_transaction_read_only=on")
    probe = [program, "--no-psqlrc", "--no-password", "--quiet", "--tuples-only", "--no-align", "--command", _PROBE]
    try:
        done = subprocess.run(  # noqa: S603 - a fixed command line
            probe, env=variables, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise DatabaseError(
            f"psql got no answer within {_PROBE_TIMEOUT_S} s", hint="Run `cortex-etl doctor`."
        ) from None
    if done.returncode != 0:
        raise DatabaseError(
            f"psql cannot connect: {' '.join(done.stderr.split())}",
            hint="Connect to PostgreSQL directly if this is a pooler (PgBouncer), or run `cortex-etl doctor`.",
        )
    is_superuser, is_read_only = done.stdout.strip().split("|")
    if is_read_only != "on":
        raise DatabaseError(
            "psql would not be read-only: the pooler ignores the option",
            hint="Connect to PostgreSQL directly, or pass --write.",
        )
    return _with_options(variables, "role=pg_read_all_data") if is_superuser == "on" else variables


def _with_options(variables: dict[str, str], setting: str) -> dict[str, str]:
    return variables | {"PGOPTIONS": f"{variables.get('PGOPTIONS', '')} -c {setting}".strip()}
