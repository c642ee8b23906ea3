"""Proxies and certificates: the API has a fictitious host name, which is reachable only through a proxy."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest
from aiohttp import web
from forward_proxy import CERTIFICATE, encrypted, forwarding
from loopback import serving

API = "https://api.cortex.test"
DEAD = "http://127.0.0.1:9"
HASH = "d252c342"  # openssl x509 -hash: the file name by which OpenSSL finds the certificate in a directory


@pytest.fixture
async def behind_a_proxy(at_work):
    """The command configured for the sandbox at `API`, and the proxy, which requires credentials."""
    command, running = at_work
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace(running.url, API))
    (command.folder / ".env").write_text(f"SSL_CERT_FILE={CERTIFICATE}\n")
    async with (
        encrypted(urlsplit(running.url).port) as port,
        forwarding({"api.cortex.test": port}, credentials="me:hunter2%40") as proxy,
    ):
        yield command, proxy


def settle(command, name: str, value: str, place: str) -> str:
    """Set the proxy; return the place that messages name."""
    if place == "environment":
        command.environment[name] = value
        return f"environment variable {name}"
    if place == ".env":
        with (command.folder / ".env").open("a") as file:
            file.write(f"{name}={value}\n")
        return f"variable {name} in .env"
    command.environment["HTTPS_PROXY"] = DEAD  # overridden
    path = command.folder / "config.yaml"
    path.write_text(path.read_text().replace("api:\n", f"api:\n  proxy: {value}\n"))
    return "config.yaml:2"


@pytest.mark.parametrize(
    ("name", "place"),
    [("HTTPS_PROXY", "environment"), ("https_proxy", "environment"), ("HTTPS_PROXY", ".env"), ("api.proxy", "file")],
)
async def test_sync_and_doctor_use_the_proxy(behind_a_proxy, name, place) -> None:
    command, proxy = behind_a_proxy
    named = settle(command, name, f"http://me:hunter2%2540@127.0.0.1:{proxy.port}", place)
    done = await command("sync", "-v")
    assert done.code == 0, done.err
    assert set(proxy.lines) == {"CONNECT api.cortex.test:443 HTTP/1.1"}
    checked = await command("doctor")
    assert f"ok   proxy       http://***@127.0.0.1:{proxy.port}, named by {named}" in checked.out
    shown = await command("config", "show")
    if place == "file":
        assert f"http://***@127.0.0.1:{proxy.port}" in shown.out
    for ended in (done, checked, shown):
        assert "hunter2" not in ended.out + ended.err


async def test_proxy_errors_name_the_proxy_and_no_credentials(behind_a_proxy) -> None:
    command, proxy = behind_a_proxy
    command.environment["HTTPS_PROXY"] = f"http://me:hunter3@127.0.0.1:{proxy.port}"
    refused = await command("doctor")
    assert f"the proxy http://***@127.0.0.1:{proxy.port} refused the connection to the API: 407" in refused.out
    assert "-> Write USER:PASSWORD@ before the host in environment variable HTTPS_PROXY." in refused.out
    proxy.credentials, proxy.hosts = "", {}
    assert "refused the connection to the API: 403" in (await command("doctor")).out
    command.environment["HTTPS_PROXY"] = "me:hunter3@127.0.0.1:9"
    away = await command("doctor")
    assert "cannot connect to the proxy http://***@127.0.0.1:9: " in away.out
    command.environment["HTTPS_PROXY"] = "socks5://me:hunter3@127.0.0.1:9"
    for words in (["sync"], ["doctor"]):
        wrong = await command(*words)
        assert wrong.code == 2
        assert "environment variable HTTPS_PROXY: expected an HTTP proxy such as" in wrong.out + wrong.err
    assert (await command("sql", "SELECT 1")).code == 0  # does not use the API
    for ended in (refused, away, wrong):
        assert "hunter3" not in ended.out + ended.err


async def test_no_proxy_is_advised_only_for_a_proxy_that_obeys_it(behind_a_proxy) -> None:
    command, proxy = behind_a_proxy
    proxy.credentials, proxy.hosts = "", {}
    place = settle(command, "HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}", "environment")
    assert f"-> Check {place}, or add the API's host to NO_PROXY." in (await command("doctor")).out
    place = settle(command, "api.proxy", f"http://127.0.0.1:{proxy.port}", "file")
    ended = await command("doctor")
    assert "refused the connection to the API: 403" in ended.out
    assert f"-> Check {place}, and that this proxy may reach the API.\n" in ended.out


async def test_certificates_of_dotenv_are_needed_and_checked(behind_a_proxy) -> None:
    command, proxy = behind_a_proxy
    command.environment["HTTPS_PROXY"] = f"http://me:hunter2%2540@127.0.0.1:{proxy.port}"
    (command.folder / ".env").write_text("")
    assert "certificate of the API was rejected" in (await command("doctor")).out
    # Start a new process, because the default is read at the first import.
    command.environment["PYTHONDONTWRITEBYTECODE"] = "1"
    assert (await command("sync", "--quiet")).code == 1
    command.environment["SSL_CERT_FILE"] = str(CERTIFICATE)
    assert (await command("sync", "--quiet")).code == 0
    del command.environment["SSL_CERT_FILE"]
    (command.folder / ".env").write_text("SSL_CERT_FILE=/no/such/file.pem\n")
    for words in (["sync"], ["doctor"]):
        ended = await command(*words)
        assert ended.code == 2
        assert (
            "variable SSL_CERT_FILE in .env: cannot read certificates from /no/such/file.pem" in ended.out + ended.err
        )


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_variable_that_names_missing_certificates_is_named(behind_a_proxy, name) -> None:
    command, proxy = behind_a_proxy
    command.environment |= {"HTTPS_PROXY": f"http://me:hunter2%2540@127.0.0.1:{proxy.port}", name: "/no/such/path"}
    (command.folder / ".env").write_text("")
    found = f"environment variable {name} names /no/such/path, which does not exist"
    ended = await command("sync", "--quiet")
    assert (ended.code, f"  hint: Correct or unset it: {found}." in ended.err) == (1, True), ended.err
    assert f"warn network     {found}\n              -> Correct or unset it" in (await command("doctor")).out
    command.environment[name] = str(CERTIFICATE if name == "SSL_CERT_FILE" else f"/no/such/path:{CERTIFICATE.parent}")
    assert "warn network" not in (await command("doctor")).out
    del command.environment[name]
    (command.folder / ".env").write_text(f"{name}=/no/such/path\n")
    ended = await command("sync", "--quiet")
    assert (ended.code, f"variable {name} in .env: cannot read certificates" in ended.err) == (2, True), ended.err


async def test_certificates_may_be_in_a_directory(behind_a_proxy) -> None:
    command, proxy = behind_a_proxy
    command.environment["HTTPS_PROXY"] = f"http://me:hunter2%2540@127.0.0.1:{proxy.port}"
    folder = command.folder / "certificates"
    folder.mkdir()
    (folder / f"{HASH}.0").write_bytes(CERTIFICATE.read_bytes())
    (command.folder / ".env").write_text(f"SSL_CERT_DIR={folder}\n")
    assert (await command("sync", "--quiet")).code == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_webhooks_use_the_proxy(at_work, scheme) -> None:
    command, _ = at_work
    bodies = []

    async def receive(request: web.Request) -> web.Response:
        bodies.append(await request.text())
        return web.Response()

    async with serving("POST", "/{any:.*}", receive) as url, encrypted(urlsplit(url).port) as port:
        target = port if scheme == "https" else urlsplit(url).port
        async with forwarding({"hooks.cortex.test": target}, credentials="me:hunter2") as proxy:
            command.environment[f"{scheme.upper()}_PROXY"] = f"http://me:hunter2@127.0.0.1:{proxy.port}"
            (command.folder / ".env").write_text(f"SSL_CERT_FILE={CERTIFICATE}\n")
            with (command.folder / "config.yaml").open("a") as file:
                file.write(f"alerts: {{ping_url: '{scheme}://hooks.cortex.test/1'}}\n")
            ended = await command("sync")
    assert ended.code == 0, ended.err
    assert len(bodies) == 2, ended.err
    assert "hunter2" not in ended.out + ended.err
    assert all("hooks.cortex.test" in line for line in proxy.lines)


async def test_loopback_is_never_reached_through_a_proxy(at_work) -> None:
    command, _ = at_work
    command.environment |= dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), DEAD)
    settle(command, "", DEAD, "file")
    assert (await command("sync", "--quiet")).code == 0
    assert "proxy" not in (await command("doctor")).out


async def test_schedule_names_proxies_that_only_the_shell_knows(at_work) -> None:
    command, running = at_work
    (command.folder / ".env").write_text(f"CORTEX_API_KEY={running.key}\n")
    command.environment["https_proxy"] = "http://me:hunter2@127.0.0.1:9"
    ended = await command("schedule", "cron")
    assert (ended.code, "https_proxy" in ended.err, "hunter2" in ended.err) == (0, True, False)
    (command.folder / ".env").write_text(f"CORTEX_API_KEY={running.key}\nhttps_proxy=http://127.0.0.1:9\n")
    del command.environment["https_proxy"]
    assert (await command("schedule", "cron")).err == ""
