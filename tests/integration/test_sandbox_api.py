"""The documented endpoints of the simulated API over HTTP."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest
from yarl import URL

KEY = {"Authorization": "Bearer sk-sandbox"}
RUNS = "/apps/c/workflows/wf_ticket_triage/runs"


@pytest.fixture
async def http():
    async with aiohttp.ClientSession(headers=KEY) as session:
        yield session


@pytest.fixture
def ask(http):
    async def ask(url: str, method: str = "GET", headers: dict | None = None, body: Any = None, **query: Any):
        async with http.request(method, URL(url, encoded=True), headers=headers, params=query, json=body) as response:
            text = await response.text()
            return response.status, json.loads(text), response.headers

    return ask


async def test_pages_and_paging_headers(sandbox, small_world, ask):
    api = await sandbox()
    found, page = [], 1
    while True:
        status, items, headers = await ask(api.url + RUNS, verbose="all", page=page, take=30)
        assert status == 200
        if not items:
            break
        expected = {"pagination-page": str(page), "pagination-take": "30"}
        assert expected.items() <= headers.items()
        assert headers["pagination-count"] == str(len(small_world.runs["wf_ticket_triage"]))
        found += items
        page += 1
    assert found == small_world.listing("wf_ticket_triage")
    assert [request.query["page"] for request in api.requests] == [str(number + 1) for number in range(page)]
    assert {request.status for request in api.requests} == {200}


async def test_page_size_is_capped(sandbox, ask):
    api = await sandbox(max_take=20)
    _, items, headers = await ask(api.url + RUNS, take=5000)
    assert len(items) == 20
    assert headers["pagination-take"] == "20"


async def test_filters_apply_to_the_list_and_the_count(sandbox, small_world, ask):
    api = await sandbox()
    for _ in range(3):
        small_world.create_run("wf_ticket_triage", status="RUNNING", origin="TEST")
    _, items, headers = await ask(api.url + RUNS, status="RUNNING", origin="TEST", take=2)
    assert {(run["status"], run["origin"]) for run in items} == {("RUNNING", "TEST")}
    assert int(headers["pagination-count"]) == len(small_world.listing("wf_ticket_triage", "TEST", "RUNNING"))


async def test_runs_are_complete_only_with_verbose(sandbox, small_world, ask):
    run = small_world.listing("wf_ticket_triage")[0]
    api = await sandbox()
    _, whole, _ = await ask(f"{api.url}{RUNS}/{run['id']}", verbose="all")
    _, terse, _ = await ask(f"{api.url}{RUNS}/{run['id']}")
    assert whole == run
    assert "output" not in terse
    assert terse.items() < whole.items()
    generous = await sandbox(verbose_required=False)
    assert (await ask(f"{generous.url}{RUNS}/{run['id']}"))[1] == run


@pytest.mark.parametrize("name", ["a/b", "ä ö?#%2F", "日本 🎌"])
async def test_quoted_ids_are_found(sandbox, small_world, ask, name):
    small_world.add_workflow("app_001", name)
    small_world.create_run(name, id=name)
    api = await sandbox()
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    status, run, _ = await ask(f"{api.url}/apps/app_001/workflows/{quoted}/runs/{quoted}")
    assert (status, run["id"]) == (200, name)


async def test_raw_bytes_are_served_verbatim(sandbox, small_world, http):
    runs = small_world.listing("wf_ticket_triage")
    small_world.raw[runs[1]["id"]] = b'{"id": "x", "result": NaN }'
    api = await sandbox()
    async with http.get(api.url + RUNS, params={"take": 2}) as response:
        assert (await response.read()).endswith(b',{"id": "x", "result": NaN }]')
    async with http.get(f"{api.url}{RUNS}/{runs[1]['id']}") as response:
        assert await response.read() == small_world.raw[runs[1]["id"]]


async def test_workflows_can_be_searched_and_filtered_by_tag(sandbox, small_world, ask):
    api = await sandbox()
    _, items, headers = await ask(api.url + "/apps/app_001/workflows")
    assert [each["id"] for each in items] == ["wf_ticket_triage", "wf_account_digest"]
    assert headers["pagination-count"] == "2"
    assert items[0] == small_world.workflows["wf_ticket_triage"]
    assert [each["id"] for each in (await ask(api.url + "/apps/c/workflows", search="DIGEST"))[1]] == [
        "wf_account_digest"
    ]
    assert [each["id"] for each in (await ask(api.url + "/apps/c/workflows", tags="nightly"))[1]] == [
        "wf_account_digest"
    ]
    assert len((await ask(api.url + "/apps/c/workflows", take=1, page=2))[1]) == 1
    assert (await ask(api.url + "/apps/c/workflows/wf_account_digest"))[1]["name"] == "Weekly account digest"


async def test_versions_are_found_by_id_and_by_number(sandbox, small_world, ask):
    api = await sandbox()
    versions = small_world.versions["wf_ticket_triage"]
    base = api.url + "/apps/c/workflows/wf_ticket_triage/versions"
    assert (await ask(base))[1] == versions[::-1]
    assert (await ask(f"{base}/{versions[0]['id']}"))[1] == versions[0]
    assert (await ask(f"{base}/1"))[1] == versions[0]
    assert (await ask(f"{base}/99"))[0] == 404


async def test_replay_and_retention_endpoints(sandbox, small_world, ask):
    api = await sandbox()
    run = small_world.listing("wf_ticket_triage")[-1]
    before = run["updated_at"]
    status, answer, _ = await ask(f"{api.url}{RUNS}/{run['id']}/replay", "POST", body={"step_key": "classify"})
    assert (status, answer["status"]) == (200, "RUNNING")
    assert run["updated_at"] > before
    status, answer, _ = await ask(f"{api.url}{RUNS}/{run['id']}/retention", "PATCH", body={"max_age_in_seconds": 60})
    assert answer["retention"]["max_age_in_seconds"] == 60
    assert answer["retention_due_at"] is not None
    status, answer, _ = await ask(f"{api.url}{RUNS}/{run['id']}/retention", "PATCH", body={"max_age_in_seconds": "x"})
    assert status == 400


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/apps/app_999/workflows", 404),
        ("/apps/c/workflows/wf_unknown", 404),
        ("/apps/app_002/workflows/wf_ticket_triage/runs", 404),
        (RUNS + "/unknown", 404),
        (RUNS + "/unknown/replay", 404),
        ("/", 404),
        ("/apps/c/workflows/wf_ticket_triage/nonsense", 404),
        (RUNS + "?page=0", 400),
        (RUNS + "?take=-1", 400),
        (RUNS + "?take=many", 400),
        (RUNS + "?status=DONE", 400),
        (RUNS + "?origin=MARS", 400),
        (RUNS + "?verbose=some", 400),
        (RUNS + "?next=nonsense", 400),
    ],
)
async def test_invalid_requests_get_the_documented_error_body(sandbox, ask, path, status):
    api = await sandbox()
    method = "POST" if path.endswith("replay") else "GET"
    got, body, _ = await ask(api.url + path, method)
    assert got == body["status"] == status
    assert body["message"]
    if status == 400:
        parameter = path.partition("?")[2].partition("=")[0]
        assert body["errors"][0]["path"] == [parameter]


async def test_other_methods_are_refused(sandbox, ask):
    api = await sandbox()
    assert (await ask(api.url + RUNS, "POST"))[0] == 405
    assert (await ask(api.url + "/apps/c/workflows", "DELETE"))[0] == 405


@pytest.mark.parametrize("header", [None, "Bearer wrong", "sk-sandbox", "Basic sk-sandbox", "Bearer "])
async def test_wrong_key_is_refused(sandbox, header):
    api = await sandbox()
    headers = {} if header is None else {"Authorization": header}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(api.url + RUNS) as response:
        assert response.status == 401
        assert (await response.json())["status"] == 401


async def test_each_app_can_have_its_own_key(sandbox, ask):
    api = await sandbox(app_keys={"app_002": "sk-two"})
    two = {"Authorization": "Bearer sk-two"}
    _, own, _ = await ask(api.url + "/apps/c/workflows", headers=two)
    assert {each["app"]["id"] for each in own} == {"app_002"}
    assert (await ask(api.url + "/apps/app_001/workflows", headers=two))[0] == 404
    assert (await ask(api.url + "/apps/app_002/workflows"))[0] == 200, "the main key opens every app"


async def test_rate_limit_applies_to_any_window(sandbox, ask):
    api = await sandbox(requests_per_minute=3, rate_window_s=1.0)
    answers = [await ask(api.url + RUNS, take=1) for _ in range(4)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 429]
    assert answers[-1][2]["retry-after"] == "1"
    assert answers[-1][1]["status"] == 429
    await asyncio.sleep(1.05)
    assert (await ask(api.url + RUNS, take=1))[0] == 200


async def test_large_bodies_are_compressed_if_accepted(sandbox, small_world):
    api = await sandbox()
    async with aiohttp.ClientSession(headers=KEY, auto_decompress=False) as session:
        async with session.get(api.url + RUNS, params={"verbose": "all"}, headers={"Accept-Encoding": "gzip"}) as one:
            body = await one.read()
            assert one.headers["Content-Encoding"] == "gzip"
            assert json.loads(gzip.decompress(body))[0] == small_world.listing("wf_ticket_triage")[0]
        async with session.get(api.url + RUNS, headers={"Accept-Encoding": "identity"}) as other:
            assert "Content-Encoding" not in other.headers
            assert b": " not in (await other.read())[:200], "compact"


async def test_next_token_returns_the_next_page(sandbox, small_world, ask):
    api = await sandbox(next_tokens=True)
    found, query = [], {}
    while True:
        _, items, headers = await ask(api.url + RUNS, take=40, **query)
        found += [run["id"] for run in items]
        if "pagination-next" not in headers:
            break
        query = {"next": headers["pagination-next"]}
    assert found == [run["id"] for run in small_world.listing("wf_ticket_triage")]
