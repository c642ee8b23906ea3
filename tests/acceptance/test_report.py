"""The report in a real browser: its numbers, its layout, and escaping of untrusted data."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import chromium, find_chromium
from postgres_fixtures import add_owners, in_thread
from sandbox_fixtures import make_small_world

from etl.app import run_sync
from etl.config import ApiSettings, AppSettings, DatabaseSettings, Settings
from etl.db.connect import connect
from etl.report import write_report
from etl.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = "<script>alert(1)</script>"
UNBROKEN = "W" * 300
OVERFLOWING = """
[...document.querySelectorAll('body, main, section, article, figure, .tile, .legend, h1, h2, h3, p, svg, td')]
    .filter(each => each.checkVisibility() && !each.closest('.scroll') && !each.matches('.long *')
        && each.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5)
    .map(each => each.outerHTML.slice(0, 200))
"""
CUT_OFF = """
[...document.querySelectorAll('svg text')].filter(each => {
    if (!each.checkVisibility() || !each.textContent.trim()) return false;
    const text = each.getBoundingClientRect(), whole = each.closest('svg').getBoundingClientRect();
    return text.left < whole.left - 4 || text.right > whole.right + 4 || text.top < whole.top - 4 || text.bottom > whole.bottom + 4;
}).map(each => each.textContent)
"""
OVERLAPPING = """
[...document.querySelectorAll('svg')].filter(each => each.checkVisibility()).flatMap(svg => {
    const texts = [...svg.querySelectorAll('text')].filter(each => each.textContent.trim());
    const boxes = texts.map(each => each.getBoundingClientRect());
    return texts.flatMap((one, i) => texts.slice(i + 1).filter((other, j) => {
        const a = boxes[i], b = boxes[i + 1 + j];
        return Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 6;
    }).map(other => one.textContent + ' | ' + other.textContent));
})
"""
SHOWN_PLOTS = """
[...document.querySelectorAll('svg')].filter(each => each.checkVisibility()).map(each => ({
    width: each.getBoundingClientRect().width, height: each.getBoundingClientRect().height,
    marks: each.querySelectorAll('.role-mark path:not([d=""]), .role-mark line').length}))
"""


@pytest.fixture
async def page(tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    async with chromium(program, tmp_path / "profile") as tab:
        yield tab


@pytest.fixture(scope="module")
def synced(databases, migrated_template) -> Iterator[str]:
    """The URL of a warehouse synced from a small world."""

    async def fill(url: str) -> None:
        async with Sandbox(make_small_world()) as source:
            await sync(source, url)

    for url in databases.fresh(f"TEMPLATE {migrated_template}"):
        in_thread(fill(url))
        yield url


@pytest.fixture(scope="module")
def report(synced, tmp_path_factory) -> Path:
    """The report of that warehouse."""
    return in_thread(written(synced, tmp_path_factory.mktemp("report")))


@pytest.fixture
async def warehouse_of_report(synced):
    connection = await connect(synced, "cortex")
    yield connection
    await connection.close()


async def sync(source, database_url: str) -> None:
    settings = Settings(
        api=ApiSettings(base_url=source.url, key=source.key, requests_per_minute=100_000),
        database=DatabaseSettings(url=database_url, schema="cortex"),
        apps=[AppSettings(id=app_id) for app_id in source.world.apps],
    )
    assert (await run_sync(settings, "sync")).status == "succeeded"


async def written(database_url: str, folder: Path, **options) -> Path:
    path = folder / "report.html"
    await write_report(database_url, "cortex", path, **options)
    return path


async def assert_fits(page, width: int) -> None:
    assert await page.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert await page.run("document.documentElement.clientWidth") <= width
    assert await page.run(OVERFLOWING) == []
    assert await page.run(CUT_OFF) == []
    assert await page.run(OVERLAPPING) == []


async def test_plots_are_drawn_and_fit_the_screen(report, page) -> None:
    for width, scheme in [(360, "light"), (360, "dark"), (760, "light"), (1400, "light"), (1400, "dark")]:
        await page.open(report, width=width, scheme=scheme)
        plots = await page.run(SHOWN_PLOTS)
        # Runs by status, credits by workflow and by model, and a card for each of four workflows.
        assert len(plots) == 3 + 4
        assert all(plot["width"] > 200 and plot["height"] > 60 and plot["marks"] > 3 for plot in plots), plots
        await assert_fits(page, width)
        colour = await page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", colour))) < 200) == (scheme == "dark")
    assert page.complaints == []
    assert {url for url in page.requests if not url.startswith("data:")} == {report.as_uri()}


async def test_numbers_match_the_warehouse(report, page, warehouse_of_report) -> None:
    await page.open(report, width=1400)
    total, failed, spent = await warehouse_of_report.fetchrow(
        "SELECT sum(runs)::int, sum(failed)::int, sum(credits) FROM workflow_health_daily WHERE day IS NOT NULL"
    )
    tiles = await page.run("[...document.querySelectorAll('.tile strong')].map(each => each.textContent)")
    assert tiles[0] == f"{total:,}"
    assert float(tiles[2].replace(",", "")) == pytest.approx(float(spent), rel=0.01)
    assert tiles[4] == "4 of 4"
    sections = await page.run("[...document.querySelectorAll('section .name')].map(each => each.textContent)")
    assert sections == [
        "Runs per day, by status", "Credits per day, by workflow", "Credits per day, by model", "Durations, by workflow",
        "Failures", "Steps", "Open runs", "Sync health",
    ]  # fmt: skip
    titles = await page.run("[...document.querySelectorAll('section h2')].map(each => each.textContent)")
    assert all(titles)
    assert titles[-1].startswith("All 4 workflows are complete; last read ")
    captions = await page.run("[...document.querySelectorAll('caption')].map(each => each.textContent)")
    rows = await page.run("""[...document.querySelectorAll('table')].map(table => table.tBodies[0].rows.length)""")
    shown = dict(zip(captions, rows, strict=True))
    assert shown["Causes of failures"] == await warehouse_of_report.fetchval(
        "SELECT least(50, count(*)) FROM failure_groups"
    )
    assert shown["Open runs"] == await warehouse_of_report.fetchval("SELECT count(*) FROM open_runs")
    assert f"{failed:,} run" in await page.run("document.querySelectorAll('.tile p')[1].textContent")


async def test_tables_fit_the_screen_and_headings_stand_above_their_values(report, page) -> None:
    for width in (360, 390, 1000):
        await page.open(report, width=width)
        wide = "[...document.querySelectorAll('.scroll')].filter(each => each.scrollWidth > each.clientWidth)"
        assert await page.run(f"{wide}.map(each => each.getAttribute('aria-label'))") == []
        apart = """[...document.querySelectorAll('table')].flatMap(table => [...table.tHead.rows[0].cells].filter((th, i) => {
            const td = table.tBodies[0].rows[0].cells[i].getBoundingClientRect(), side = th.matches('.number:not(.stack *)') ? 'right' : 'left';
            return th.checkVisibility() && Math.abs(th.getBoundingClientRect()[side] - td[side]) > 1;
        }).map(th => th.textContent))"""
        assert await page.run(apart) == []


async def test_contents_list_the_titles(report, page) -> None:
    await page.open(report, width=390)
    entries = await page.run("[...document.querySelectorAll('nav li')].map(each => each.textContent.trim())")
    sections = await page.run(
        "[...document.querySelectorAll('section')].map(each => "
        "each.querySelector('.name').textContent + ' ' + each.querySelector('h2').textContent)"
    )
    assert entries == sections
    for link in ("nav a", ".up a"):
        missing = f"[...document.querySelectorAll('{link}')].filter(each => !document.querySelector(each.hash) || !each.checkVisibility())"
        assert await page.run(f"{missing}.length") == 0
    await page.open(report, width=1400)
    assert not await page.run("document.querySelector('.up').checkVisibility()")


async def test_failing_workflows_are_in_the_order_of_the_title(report, page, warehouse_of_report) -> None:
    rates = await warehouse_of_report.fetch(
        """
        SELECT workflow_name, sum(failed)::int AS failed, sum(completed + failed + cancelled + skipped)::int AS ended
        FROM workflow_health_daily WHERE day IS NOT NULL GROUP BY 1
        HAVING sum(failed) > 0 AND sum(completed + failed + cancelled + skipped) >= 20
        ORDER BY sum(failed) / sum(completed + failed + cancelled + skipped) DESC
        """
    )
    await page.open(report, width=1400)
    bars = await page.run(
        "[...document.querySelector('#failures .bars').children].map(each => each.innerText.replace(/\\s+/g, ' ').trim())"
    )
    assert len(bars) > 1
    for bar, row in zip(bars, rates, strict=True):
        assert bar.startswith(row["workflow_name"])
        assert bar.endswith(f"({row['failed']} of {row['ended']})")
    title = await page.run("document.querySelector('#failures h2').textContent")
    assert title.startswith(f"{rates[0]['workflow_name']} has the highest share of failed runs")


async def test_axes_have_titles_and_numbers_are_right_aligned(report, page) -> None:
    await page.open(report, width=1400)
    titles = await page.run(
        "[...document.querySelectorAll('svg .role-title text, svg .role-axis-title text')].map(each => each.textContent)"
    )
    assert {"Runs per day", "Credits per day", "Day of creation (UTC)", "Failed runs, % of those that ended"} <= set(
        titles
    )
    assert sum(each.startswith("Duration of runs") for each in titles) == 4
    legends = await page.run("[...document.querySelectorAll('svg .role-legend-label')].map(each => each.textContent)")
    assert legends == ["median", "95th percentile"] * 4
    numbers = "[...document.querySelectorAll('td.number, th.number')]"
    assert await page.run(f"new Set({numbers}.map(each => getComputedStyle(each).textAlign)).size") == 1
    assert await page.run(f"getComputedStyle({numbers}[0]).textAlign") == "right"


async def test_partial_days_are_faded(report, page) -> None:
    await page.open(report, width=1400)
    bars = "[...document.querySelectorAll('#runs .wide .mark-rect path')]"
    faded = f"{bars}.filter(each => Number(each.getAttribute('opacity')) < 1).map(each => each.getBoundingClientRect())"
    area = "document.querySelector('#runs .wide path.background').getBoundingClientRect()"
    # The last day is that of the last run, long before the sync.
    assert await page.run(f"{faded}.length") > 0
    assert await page.run(f"(area => {faded}.every(each => each.right < area.left + 40))({area})")
    note = await page.run("document.querySelector('#runs .note').textContent")
    assert re.fullmatch(r"Faded: partial day \(\d+.\w+ begins with the first run, at \d\d:\d\d\)\.", note), note


async def test_versions_are_marked_at_their_first_run(report, page, warehouse_of_report) -> None:
    used = await warehouse_of_report.fetch(
        """SELECT workflow_id, version FROM runs WHERE version IS NOT NULL AND created_at IS NOT NULL
        GROUP BY 1, 2 ORDER BY 1, min(created_at)"""
    )
    later = {f"v{row['version']}" for before, row in pairwise(used) if before["workflow_id"] == row["workflow_id"]}
    await page.open(report, width=1400)
    labels = await page.run("[...document.querySelectorAll('article svg text')].map(each => each.textContent)")
    marked = {label for label in labels if re.fullmatch(r"v\d+", label)}
    assert marked
    assert marked <= later


async def test_clicking_a_heading_sorts_the_table(report, page) -> None:
    await page.open(report, width=1400)
    cells = "document.querySelector('#steps table').tBodies[0].rows"
    heading = "document.querySelector('#steps table').tHead.rows[0].cells[3]"
    numbers = f"[...{cells}].map(row => Number(row.cells[3].dataset.sort))"
    for order, sign in (("descending", -1), ("ascending", 1)):
        await page.run(f"{heading}.firstElementChild.click()")
        assert await page.run(f"{heading}.getAttribute('aria-sort')") == order
        found = await page.run(numbers)
        assert found == sorted(found, key=lambda number: sign * number)
        assert len(set(found)) > 3
    shown = f"[...{cells}].filter(row => row.checkVisibility()).length"
    assert await page.run(shown) == 10
    await page.run("document.querySelectorAll('button.more').forEach(each => each.click())")
    assert await page.run(shown) == await page.run(f"{cells}.length")


async def tooltip(page, plot: str, side: str, inwards: int) -> str:
    """Hover near the left or right side of a plot, and return the text of the tooltip."""
    area = f"document.querySelector('{plot} path.background')"
    await page.run(f"{area}.scrollIntoView({{behavior: 'instant', block: 'center'}})")
    box = await page.run(
        f"(each => ({{x: each.{side}, y: (each.top + each.bottom) / 2}}))({area}.getBoundingClientRect())"
    )
    for each in range(50):  # scrolling hides the tooltip a moment later
        await page.hover(box["x"] + inwards, box["y"] + each % 2)
        if text := await page.run(
            "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
        ):
            break
        await asyncio.sleep(0.05)
    return text


async def test_tooltip_shows_the_runs_of_a_day(report, page, warehouse_of_report) -> None:
    await page.open(report, width=1400)
    day, runs = await warehouse_of_report.fetchrow(
        "SELECT day, sum(runs)::int AS runs FROM workflow_health_daily WHERE day IS NOT NULL GROUP BY day ORDER BY day DESC LIMIT 1"
    )
    text = await tooltip(page, "#runs .wide", "right", -3)
    assert text.splitlines()[0] == f"{day:%a} {day.day} {day:%b}: {runs} run{'s' * (runs != 1)}"
    text = await tooltip(page, "#runs .wide", "left", 3)
    assert re.fullmatch(r"\w+ \d+ \w+, partial: \d+ runs?", text.splitlines()[0])


async def test_tooltips_of_workflows_show_rates_and_durations(report, page) -> None:
    await page.open(report, width=390)
    for side, inwards in (("right", -2), ("left", 6)):
        text = await tooltip(page, "article", side, inwards)
        period = r"\w+ \d+ \w+( to \w+ \d+ \w+)?: \d+ runs?"
        assert re.fullmatch(period + r"(\n.+% \(\d+ of \d+\) failed)?(\nmedian .+, p95 .+)?", text), text


async def test_data_is_escaped(sandbox, small_world, database_url, tmp_path, page, warehouse) -> None:
    names = [HOSTILE, UNBROKEN, '"><img src=x onerror=alert(2)>', "</svg></style></script><h1>taken over</h1>"]
    for name, workflow in zip(names, small_world.workflows.values(), strict=True):
        workflow["name"] = name
    await sync(await sandbox(small_world), database_url)
    await warehouse.execute(
        "UPDATE runs SET error = $1, origin = $2, status = $2 WHERE status = 'FAILED' AND id < 'm'",
        *["<img src=x onerror=alert(3)>"] * 2,
    )
    await warehouse.execute("UPDATE runs SET error = $1 || repeat('E', 500) WHERE status = 'FAILED'", HOSTILE)
    await warehouse.execute("ALTER TABLE run_step_calls DROP CONSTRAINT run_step_calls_step_fkey")
    await warehouse.execute(
        "UPDATE run_steps SET step_key = step_key || $1, model = $2 || model",
        ' d="M1.2345" </script><script>alert(4)</script>',
        "javascript:alert(5)//<b>",
    )
    await warehouse.execute("UPDATE etl_streams SET last_error = $1", "<iframe src='javascript:alert(6)'></iframe>")
    path = await written(database_url, tmp_path)
    for width in (390, 1400):
        await page.open(path, width=width)
        await assert_fits(page, width)
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [path.as_uri()] * 2
    assert await page.run(
        "[...document.querySelectorAll('img, iframe, b, h1, script')].map(each => each.localName)"
    ) == ["h1", "script"]
    assert (
        await page.run(
            "[...document.querySelectorAll('*')].flatMap(each => [...each.attributes]).filter(each => /^on/i.test(each.name)).length"
        )
        == 0
    )
    headings = await page.run("[...document.querySelectorAll('h3')].map(each => each.textContent)")
    assert set(names) - {UNBROKEN} <= set(headings)


async def test_characters_not_allowed_in_xml_end_no_process(command, database_url, page, warehouse) -> None:
    # Run the command in a separate process, which the drawing engine would terminate on these characters.
    odd = "\x01\x0b\x1b\x1f\ufffe\uffff"
    await warehouse.execute("INSERT INTO workflows (id, name) VALUES ('wf', $1)", f"Invoices{odd}")
    await warehouse.execute(
        """INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status, origin, error, created_at, ended_at)
        SELECT $1 || status, $1, 'wf', $1, status, $1, $1, now(), now()
        FROM unnest(ARRAY['FAILED', 'RUNNING', $1]) AS status""",
        f"x{odd}",
    )
    await warehouse.execute(
        """INSERT INTO run_steps (
            run_id, step_key, ordinal, type, status, started_at, ended_at, provider, model, credits)
        SELECT id, $1, 0, 'model', 'FAILED', now() - interval '1 s', now(), $2, $2, 2 FROM runs""",
        f"classify{odd}",
        f"large{odd}",
    )
    command.configure(f"database: {{url: '{database_url}'}}\n")
    ended = await command("report", "--output", "page.html")
    assert (ended.code, ended.out, ended.err) == (0, "Wrote page.html\n", "")
    await page.open(command.folder / "page.html", width=1400)
    assert "classify\\x01" in await page.run("document.querySelector('#steps .bars').textContent")
    assert "large\\x01" in await page.run("document.querySelector('#models .legend').textContent")
    assert "Invoices\\x01" in await page.run("document.querySelector('h3').textContent")
    assert page.complaints == []


async def test_empty_warehouse(database_url, tmp_path, page) -> None:
    await page.open(await written(database_url, tmp_path), width=390)
    assert "The warehouse contains no runs" in await page.run("document.body.innerText")
    assert await page.run("document.querySelectorAll('svg, table').length") == 0
    await assert_fits(page, 390)
    assert page.complaints == []


async def test_runs_without_times_and_versions(database_url, tmp_path, page, warehouse) -> None:
    await add_owners(warehouse, "wf")
    await warehouse.execute(
        """INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status)
        VALUES ('a', 'app', 'wf', 'app', 'FAILED'), ('b', 'app', NULL, 'app', NULL), ('c', 'app', 'wf', 'app', 'RUNNING')"""
    )
    await page.open(await written(database_url, tmp_path), width=390)
    text = await page.run("document.body.innerText")
    assert "3 runs without created_at" in text
    assert "1 open run" in text
    await warehouse.execute("INSERT INTO runs (id, app_id, workflow_id, created_at) VALUES ('d', 'app', NULL, now())")
    await page.open(await written(database_url, tmp_path), width=390)
    assert "(no workflow)" in await page.run("document.body.innerText")
    await assert_fits(page, 390)
    assert page.complaints == []


async def test_axis_labels_are_readable(database_url, tmp_path, page, warehouse) -> None:
    async def labels() -> list[str]:
        await page.open(await written(database_url, tmp_path), width=360)
        await assert_fits(page, 360)
        return await page.run("[...document.querySelectorAll('.role-axis-label text')].map(each => each.textContent)")

    await add_owners(warehouse, "wf")
    insert = """
        INSERT INTO runs (id, app_id, workflow_id, created_at, status, started_at, ended_at, own_credits)
        SELECT $1 || i, 'app', 'wf', now() - i * $4::interval, $1, now(), now() + interval '0.4 s', $2
        FROM generate_series(1, $3) AS i"""
    await warehouse.execute(insert, "PAUSED", 0, 3, timedelta(days=9))
    assert {"0", "1"} <= set(await labels())
    assert await page.run("document.querySelectorAll('#workflows svg').length") == 0  # no run has ended
    await warehouse.execute(insert, "COMPLETED", 0.00001, 54, timedelta(hours=12))
    found = await labels()
    assert {"0", "1", "2", "0.00001", "0.2 s", "0.4 s"} <= set(found)
    assert not {"0.5", "1.5"} & set(found)
    await warehouse.execute("DELETE FROM runs WHERE id LIKE 'COMPLETED%' AND substr(id, 10)::int > 5")
    await warehouse.execute("UPDATE runs SET created_at = now(), own_credits = 25")
    await warehouse.execute(insert, "SKIPPED", 1, 1, timedelta(days=9))
    await warehouse.execute("UPDATE runs SET own_credits = 1e300 WHERE status = 'SKIPPED'")
    assert "1e+200" in await labels()
    await warehouse.execute("UPDATE runs SET own_credits = 25, ended_at = started_at + interval '100 h'")
    assert {"0", "50", "100", "0 h", "50 h", "100 h"} <= set(await labels())


async def test_report_of_a_year_and_many_workflows_stays_small(database_url, tmp_path, page, warehouse) -> None:
    await warehouse.execute(
        """
        INSERT INTO workflows (id) SELECT 'workflow number ' || flow FROM generate_series(1, 60) AS flow;
        INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status, created_at, started_at, ended_at, own_credits)
        SELECT 'run ' || day || ' ' || flow || ' ' || status, 'app', 'workflow number ' || flow, 'app', status, at, at,
            at + day % 11 * interval '7.3 s', (day * 37 % 101 + flow) / 7.0
        FROM generate_series(0, 364) AS day, generate_series(1, 60) AS flow,
            unnest(ARRAY['COMPLETED', 'FAILED', 'CANCELLED', 'SKIPPED', 'PAUSED']) AS status,
            LATERAL (SELECT now() - day * interval '1 day' AS at) AS moment
        WHERE flow < 15 OR day % 10 = 0;
        INSERT INTO run_steps (run_id, step_key, ordinal, type, status, provider, model, credits, started_at, ended_at)
        SELECT id, 'answer', 0, 'model', 'COMPLETED', 'maker', 'model-' || length(id) % 3 || right(workflow_id, 1), own_credits, started_at, ended_at
        FROM runs;
        INSERT INTO etl_streams (app_id, workflow_id) SELECT 'app', 'workflow number ' || flow FROM generate_series(1, 60) AS flow
        """
    )
    path = await written(database_url, tmp_path, days=365)
    assert path.stat().st_size < 2_000_000
    await page.open(path, width=1400)
    await assert_fits(page, 1400)
    assert len(await page.run(SHOWN_PLOTS)) == 3 + 12
    assert await page.run("document.querySelectorAll('#failures .bars > li').length") == 10  # no step failed
    legend = await page.run("[...document.querySelectorAll('#credits .legend li')].map(each => each.textContent)")
    assert legend[-1] == "53 others"
    assert "Runs per week, by status" in await page.run("document.body.innerText")
    assert page.complaints == []


async def test_no_group_of_others_has_one_member(database_url, tmp_path, page, warehouse) -> None:
    async def legend(number: int) -> list[str]:
        await warehouse.execute(
            """
            INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status, created_at, own_credits)
            SELECT 'run ' || flow, 'app', 'workflow ' || flow, 'app', 'COMPLETED', now(), 1 + flow
            FROM generate_series(1, $1::int) AS flow ON CONFLICT DO NOTHING""",
            number,
        )
        await page.open(await written(database_url, tmp_path), width=1400)
        return await page.run("[...document.querySelectorAll('#credits .legend li')].map(each => each.textContent)")

    await warehouse.execute("SET session_replication_role = replica")  # without rows of their workflows
    assert await legend(8) == [f"workflow {each}" for each in range(8, 0, -1)]
    assert await legend(9) == [*(f"workflow {each}" for each in range(9, 2, -1)), "2 others"]


async def test_workflows_whose_names_begin_alike_are_labelled_with_their_ids(database_url, tmp_path, warehouse) -> None:
    await warehouse.execute(
        """
        INSERT INTO apps (id) VALUES ('app');
        INSERT INTO workflows (id, app_id, name) VALUES ('one', 'app', 'Invoices'), ('two', 'app', 'Invoices'),
            ('three', 'app', 'Orders'), ('four', 'app', repeat('x', 70) || ' 1'), ('five', 'app', repeat('x', 70) || ' 2');
        INSERT INTO runs (id, app_id, workflow_id, stream_app_id, created_at) SELECT id, 'app', id, 'app', now() FROM workflows
        """
    )
    html = (await written(database_url, tmp_path)).read_text()
    labels = set(re.findall("<h3>(.*?)</h3>", html))
    assert labels == {"Invoices (one)", "Invoices (two)", "Orders", f"{'x' * 40} (four)", f"{'x' * 40} (five)"}


async def test_durations_are_those_of_enough_completed_and_failed_runs(database_url, tmp_path, warehouse) -> None:
    await add_owners(warehouse, "wf")
    await warehouse.execute(
        """
        INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status, created_at, started_at, ended_at)
        SELECT 'run ' || day || status || i, 'app', 'wf', 'app', status, at, at,
            at + CASE WHEN status IN ('COMPLETED', 'FAILED') THEN interval '8 s' ELSE interval '0 s' END
        FROM generate_series(0, 9) AS day, generate_series(1, 4) AS i,
            unnest(ARRAY['COMPLETED', 'FAILED', 'SKIPPED', 'CANCELLED']) AS status,
            LATERAL (SELECT now() - day * interval '1 day' AS at)
        WHERE day > 0 OR status <> 'COMPLETED'
        """
    )
    html = (await written(database_url, tmp_path)).read_text().replace("\xa0", " ")
    tips = re.search(r'<article>.*?data-tips="(.*?)"', html, re.DOTALL)[1].split("&#34;,&#34;")
    assert ["median 8 s, p95 8 s" in each for each in tips] == [False] + [True] * 9  # the last day has 4 durations
    assert "0 s" not in re.findall(r"median ([^,;]+)", html)


async def test_no_durations_are_plotted_without_a_day_of_enough_runs(database_url, tmp_path, page, warehouse) -> None:
    await add_owners(warehouse, "wf")
    await warehouse.execute(
        """
        INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status, created_at, started_at, ended_at)
        SELECT 'run ' || day || ' ' || i, 'app', 'wf', 'app', 'FAILED', at, at, at + interval '24 s'
        FROM generate_series(0, 9) AS day, generate_series(1, 4) AS i, LATERAL (SELECT now() - day * interval '1 day' AS at)
        """
    )
    await page.open(await written(database_url, tmp_path), width=1400)
    await assert_fits(page, 1400)
    section = (await page.run("document.querySelector('#workflows').textContent")).replace("\xa0", " ")
    assert "median 24 s" in section
    assert "Durations are plotted for 1 day with at least 5 completed and failed runs." in section
    texts = await page.run("[...document.querySelectorAll('#workflows svg text')].map(each => each.textContent)")
    assert "Failed runs, % of those that ended" in texts
    assert "Day of creation (UTC)" in texts
    assert "Duration of runs" not in texts
    assert page.complaints == []


@pytest.mark.parametrize("days_ago", [5, 27])
async def test_one_outlier_does_not_flatten_the_durations(database_url, tmp_path, page, warehouse, days_ago) -> None:
    await add_owners(warehouse, "wf")
    await warehouse.execute(
        """
        INSERT INTO runs (id, app_id, workflow_id, stream_app_id, status, created_at, started_at, ended_at)
        SELECT 'run ' || day || ' ' || i, 'app', 'wf', 'app', 'COMPLETED', at, at,
            at + CASE WHEN day = $1 THEN interval '20 h' ELSE (4 + day / 3 % 5 * 2 + i) * interval '1 s' END
        FROM generate_series(0, 29) AS day, generate_series(1, 4) AS i, LATERAL (SELECT now() - day * interval '1 day' AS at)
        """,
        days_ago,
    )
    await page.open(await written(database_url, tmp_path), width=1400)
    await assert_fits(page, 1400)
    texts = await page.run("[...document.querySelectorAll('#workflows svg text')].map(each => each.textContent)")
    assert any(re.fullmatch(r"Duration of runs, clipped at \d\d.s \(▲ longer\)", each) for each in texts), texts
    assert "20\xa0h" in texts
    assert any(re.fullmatch(r"[12]\d s", each) for each in texts), texts  # the axis
    lines = await page.run(
        "[...document.querySelectorAll('#workflows svg .mark-line path')].map(each => each.getBoundingClientRect().height)"
    )
    assert len(lines) == 2
    assert min(lines) > 15
    await warehouse.execute("UPDATE runs SET ended_at = started_at + interval '40 s' WHERE duration_s > 1000")
    await page.open(await written(database_url, tmp_path), width=1400)
    assert "clipped" not in await page.run("document.querySelector('#workflows').textContent")


async def test_a_version_that_made_a_workflow_slower_is_the_title(database_url, tmp_path, page, warehouse) -> None:
    await warehouse.execute("SET session_replication_role = replica")
    await warehouse.execute(
        """
        INSERT INTO workflows (id, name) VALUES ('wf 1', 'Steady'), ('wf 2', 'Invoices');
        INSERT INTO runs (id, app_id, workflow_id, stream_app_id, version, status, created_at, started_at, ended_at)
        SELECT 'run ' || day || ' ' || i || flow, 'app', 'wf ' || flow, 'app', CASE WHEN day < 10 THEN 5 ELSE 4 END,
            'COMPLETED', at, at, at + (8 + i) * CASE WHEN day < 10 AND flow = 2 THEN 3 ELSE 1 END * interval '1 s'
        FROM generate_series(0, 29) AS day, generate_series(1, 4) AS i, generate_series(1, 2) AS flow,
            LATERAL (SELECT now() - day * interval '1 day' AS at)
        """
    )
    path = await written(database_url, tmp_path)
    await page.open(path, width=390)
    day = datetime.now(UTC) - timedelta(days=9)
    title = await page.run("document.querySelector('#workflows h2').textContent")
    assert title.replace("\xa0", " ") == f"Invoices got slower with v5 on {day.day} {day:%b}: median 10 s to 32 s"
    assert await page.run("document.querySelector('#workflows h3').textContent") == "Invoices"
    assert title in await page.run("document.querySelector('nav').textContent")


async def test_print_keeps_legends_and_titles_with_their_plots(report, page) -> None:
    await page.open(report, width=1400, scheme="dark")
    await page.call("Emulation.setEmulatedMedia", media="print")
    assert await page.run("getComputedStyle(document.querySelector('.legend i')).printColorAdjust") == "exact"
    assert await page.run("getComputedStyle(document.querySelector('.start')).breakInside") == "avoid"
    assert await page.run("getComputedStyle(document.querySelector('#runs .wide')).display") == "block"


async def test_report_ends_with_the_last_run_of_an_old_warehouse(database_url, tmp_path, warehouse) -> None:
    last = datetime.now(UTC) - timedelta(days=40)
    await add_owners(warehouse, "wf")
    await warehouse.execute(
        "INSERT INTO runs (id, app_id, workflow_id, created_at) VALUES ('a', 'app', 'wf', $1)", last
    )
    html = (await written(database_url, tmp_path, days=5)).read_text()
    assert f"{last.day} {last:%b %Y}, days in UTC" in html
    assert "The last run is 40 days old." in html


async def test_retired_streams_are_left_out_of_sync_health(database_url, tmp_path, warehouse) -> None:
    await warehouse.execute(
        """
        INSERT INTO etl_streams (app_id, workflow_id, requested, backfill_done, last_synced_at, last_succeeded_at)
        VALUES ('app', 'there', true, true, now(), now()), ('app', 'gone', false, false, now() - interval '50 days', NULL)
        """
    )
    await write_report(database_url, "cortex", tmp_path / "report.html")
    assert "The workflow is complete" in (tmp_path / "report.html").read_text()


async def test_report_command(command, database_url) -> None:
    command.configure(f"database: {{url: '{database_url}'}}\n")
    ended = await command("report", "--output", "page.html", "--days", "30")
    assert (ended.code, ended.out, ended.err) == (0, "Wrote page.html\n", "")
    assert (command.folder / "page.html").read_text().startswith("<!doctype html>")
    assert [each.name for each in command.folder.iterdir() if each.name.startswith(".page")] == []

    ended = await command("report", "--output", "nowhere/page.html")
    assert ended.code == 2
    assert "cannot write nowhere/page.html: No such file or directory" in ended.err
    assert "hint: " in ended.err


async def test_report_command_without_a_warehouse(command, empty_database_url) -> None:
    command.configure(f"database: {{url: '{empty_database_url}'}}\n")
    ended = await command("report")
    assert ended.code == 4
    assert "cortex-etl migrate" in ended.err
