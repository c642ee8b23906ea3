"""Schedules: cron intervals and quoting, systemd escapes, the Kubernetes manifest."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from etl.cli.units import Installation, cron_line, cron_times, kubernetes_manifest, systemd_units
from etl.errors import SettingsError

HERE = Installation(
    program=("/bin/echo",),
    config=Path("/srv/cortex/config.yaml"),
    embedded=False,
    user="daemon",
    writable=(Path("/srv/cortex/.cortex-etl"),),
)
ODD_PATHS = [
    "/srv/a b/c",
    "/srv/50% %h %%",
    "/srv/$HOME ${X} $$",
    """/srv/it's "quoted" 'twice'""",
    "/srv/back\\slash \\n \\",
    "/srv/blank at the end ",
    "/srv/[a-z]*?",
    "/srv/-dash; #comment",
    "/srv/né🌍",
]
systemd = shutil.which("systemd-analyze")
with_systemd = pytest.mark.skipif(systemd is None, reason="systemd is not installed")


def loaded(units: dict[str, str], folder: Path) -> dict[str, str]:
    """Return the properties of the service as systemd reads them."""
    for name, text in units.items():
        (folder / name).write_text(text)
    ended = subprocess.run(
        [str(systemd), "verify", "--man=no", str(folder / "cortex-etl.service")],
        capture_output=True, text=True, check=False, env={"SYSTEMD_LOG_LEVEL": "debug"},
    )  # fmt: skip
    found = re.findall(r"^\s*([\w ]+): (.*)$", ended.stdout, re.MULTILINE)
    return {name.strip(): value for name, value in reversed(found)}


def expanded(field: str, size: int) -> set[int]:
    """Return the values of a crontab field `*`, `*/n` or `n`."""
    if field == "*":
        return set(range(size))
    return set(range(0, size, int(field[2:]))) if field.startswith("*/") else {int(field)}


@pytest.mark.parametrize("minutes", [1, 2, 5, 10, 15, 30, 60, 120, 360, 1440])
def test_cron_runs_at_even_intervals(minutes: int) -> None:
    minute, hour, *rest = cron_times(timedelta(minutes=minutes)).split()
    assert rest == ["*", "*", "*"]
    times = sorted(60 * h + m for h in expanded(hour, 24) for m in expanded(minute, 60))
    assert {later - sooner for sooner, later in zip(times, [*times[1:], times[0] + 1440], strict=True)} == {minutes}


@pytest.mark.parametrize(("minutes", "near"), [(7, "6m"), (45, "30m"), (0.5, "1m"), (60 * 7, "6h"), (3000, "1d")])
def test_unsupported_interval_suggests_the_nearest(minutes: float, near: str) -> None:
    with pytest.raises(SettingsError) as refused:
        cron_times(timedelta(minutes=minutes))
    assert f"--every {near}," in refused.value.hint


NAMES = st.text(
    st.characters(exclude_characters="/", exclude_categories=("Cc", "Cs"), codec="utf-8"), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))


@given(NAMES)
def test_cron_line_quotes_paths(name: str) -> None:
    config = Path("/srv", name, "config.yaml")
    line = cron_line(replace(HERE, config=config), timedelta(minutes=5)).rstrip("\n").split("\n")[-1]
    command = line.removeprefix("*/5 * * * * ")
    assert "%" not in command.replace("\\%", "")
    words = shlex.split(command.replace("\\%", "%"))
    assert words[words.index("--config") + 1] == str(config)
    assert words[-3:] == ["tee", "-a", str(config.parent / "cortex-etl.log")]


@pytest.mark.parametrize("character", ["\n", "\r", "\x1b", "\t"])
def test_line_break_in_a_path_is_refused(character: str) -> None:
    """Root or kubectl reads the schedule line by line."""
    odd = Path(f"/srv/a{character}ExecStartPre=+evil/config.yaml")
    for make in (cron_line, systemd_units):
        with pytest.raises(SettingsError, match="line break"):
            make(replace(HERE, config=odd), timedelta(minutes=5))
    for changed in ({"program": (str(odd),)}, {"writable": (odd,)}, {"log": odd}, {"user": str(odd)}):
        with pytest.raises(SettingsError, match="line break"):
            systemd_units(replace(HERE, **changed), timedelta(minutes=5))
    for environment, config in ((odd, HERE.config), (HERE.environment, odd)):
        with pytest.raises(SettingsError, match="line break"):
            kubernetes_manifest(timedelta(minutes=5), image="x", config=config, environment=environment)


@pytest.mark.parametrize(
    "installation",
    [
        HERE,
        replace(
            HERE, embedded=True, log=Path("/var/log/cortex-etl.log"), writable=(Path("/srv/a b"), Path("/srv/tmp"))
        ),
        replace(HERE, user="root"),
        replace(HERE, user="root", embedded=True),
    ],
    ids=["plain", "embedded", "root", "root, embedded"],
)
def test_systemd_units_are_valid(installation: Installation, tmp_path: Path) -> None:
    units = systemd_units(installation, timedelta(minutes=10))
    assert sorted(units) == ["cortex-etl.service", "cortex-etl.timer"]
    service = units["cortex-etl.service"]
    for line in (
        "Type=oneshot",
        f"User={installation.user}",
        "SuccessExitStatus=75",
        "ExecStart=/bin/echo sync --config ",
    ):
        assert line in service
    assert "OnUnitActiveSec=600s" in units["cortex-etl.timer"]
    assert ("KillMode=process" in service) == installation.embedded
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    verify = shutil.which("systemd-analyze")
    if verify:  # without systemd, only the checks above are possible
        ended = subprocess.run(
            [verify, "verify", *map(str, sorted(tmp_path.iterdir()))], capture_output=True, text=True, check=False
        )
        said = [line for line in (ended.stdout + ended.stderr).splitlines() if "cortex-etl" in line]
        assert (ended.returncode, said) == (0, [])


@with_systemd
@pytest.mark.parametrize("path", ODD_PATHS)
def test_systemd_reads_odd_paths_as_they_are(path: str, tmp_path: Path) -> None:
    made = replace(
        HERE,
        program=(f"{path}/cortex-etl",),
        config=Path(path, "config.yaml"),
        log=Path(path, "log"),
        writable=(Path(path, "data"), Path(path)),
    )
    read = loaded(systemd_units(made, timedelta(minutes=10)), tmp_path)
    assert read["WorkingDirectory"] == path
    assert read["StandardErrorFileToAppend"] == f"{path}/log"
    assert read["ReadWritePaths"] == f"-{path}/data -{path}"
    assert re.sub(r"\\(.)", r"\1", read["EnvironmentFile"]) == f"-{path}/.env"  # a pattern, as of glob(3)
    words = words_of(read["Command Line"])
    start = 1 if words[0] == "/usr/bin/env" else 0
    # systemd replaces variables, and so `$$`, in arguments only.
    arguments = [word.replace("$$", "$") for word in words[1:]]
    assert [words[0], *arguments][start : start + 4] == [
        f"{path}/cortex-etl",
        "sync",
        "--config",
        f"{path}/config.yaml",
    ]


def words_of(line: str) -> list[str]:
    """Split a command line as systemd shows it: in double quotes where needed, with backslashes."""
    quoted = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', line)
    return [re.sub(r"\\(.)", r"\1", one) if one else other for one, other in quoted]


@with_systemd
@pytest.mark.parametrize("user", ["daemon", "root"])
@pytest.mark.parametrize("embedded", [False, True])
def test_systemd_units_are_hardened(tmp_path: Path, user: str, *, embedded: bool) -> None:
    for name, text in systemd_units(replace(HERE, user=user, embedded=embedded), timedelta(minutes=10)).items():
        (tmp_path / name).write_text(text)
    ended = subprocess.run(
        [str(systemd), "security", "--offline=true", "--no-pager", str(tmp_path / "cortex-etl.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    level = re.search(r"Overall exposure level for \S+: (\d+\.\d+)", ended.stdout)
    assert level, ended
    assert float(level[1]) < (3 if user == "daemon" else 5)


@pytest.mark.parametrize("end", [" ", "\\"])
def test_log_that_systemd_cannot_name(end: str) -> None:
    with pytest.raises(SettingsError, match="ends with a blank or a backslash"):
        systemd_units(replace(HERE, log=Path(f"/var/log/x{end}")), timedelta(minutes=10))


def test_pods_that_share_each_sync_are_copies_with_one_name() -> None:
    files = {"config": HERE.config, "environment": HERE.environment}
    one, four = (kubernetes_manifest(timedelta(hours=1), image="x", workers=n, **files) for n in (1, 4))
    assert "--join" not in one
    assert "Indexed" not in one
    job = yaml.safe_load(four)["spec"]["jobTemplate"]["spec"]
    assert (job["completionMode"], job["completions"], job["parallelism"]) == ("Indexed", 4, 4)
    assert "cortex-etl sync --join cortex-etl --config" in job["template"]["spec"]["containers"][0]["command"][-1]


def test_kubernetes_manifest() -> None:
    text = kubernetes_manifest(
        timedelta(hours=1), image="registry.example/cortex-etl:1.0", config=HERE.config, environment=HERE.environment
    )
    manifest = yaml.safe_load(text)
    assert (manifest["kind"], manifest["apiVersion"]) == ("CronJob", "batch/v1")
    spec = manifest["spec"]
    assert (spec["schedule"], spec["concurrencyPolicy"]) == ("0 * * * *", "Forbid")
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/cortex-etl:1.0"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounted = {each["name"] for each in container["volumeMounts"]}
    assert mounted == {each["name"] for each in pod["volumes"]}
    assert f"--from-file=config.yaml={HERE.config}" in text


def in_the_pod(program: str, folder: Path) -> subprocess.Popen[str]:
    """Start the command of the manifest's container, with a shell script instead of `cortex-etl`."""
    text = kubernetes_manifest(timedelta(hours=1), image="x", config=HERE.config, environment=HERE.environment)
    (container,) = yaml.safe_load(text)["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    path = folder / "cortex-etl"
    path.write_text(f"#!/bin/sh\n{program}\n")
    path.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.Popen(container["command"], env=environment, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("code", "ends_with"), [(0, 0), (75, 0), (1, 1), (4, 4), (137, 137)])
def test_pod_fails_only_if_the_sync_fails(code: int, ends_with: int, tmp_path: Path) -> None:
    with in_the_pod(f"exit {code}", tmp_path) as pod:
        assert pod.wait(5) == ends_with


def test_stopped_pod_waits_for_the_sync(tmp_path: Path) -> None:
    with in_the_pod("trap 'echo stopped >&2; exit 130' TERM; echo ready >&2; sleep 3 & wait", tmp_path) as pod:
        assert pod.stderr is not None
        assert pod.stderr.readline() == "ready\n"
        pod.terminate()  # only the shell, as Kubernetes does
        assert pod.stderr.readline() == "stopped\n"
        assert pod.wait(5) == 130


def test_stopped_pods_exit_with_the_code_of_the_sync(tmp_path: Path) -> None:
    """The shell may receive both events at the same time: 2 to 6 of 60 pods used to exit with 143."""
    folders = [tmp_path / str(number) for number in range(60)]
    for folder in folders:
        folder.mkdir()
    pods = [in_the_pod("trap 'exit 130' TERM; echo ready >&2; sleep 5 & wait", folder) for folder in folders]
    assert {pod.stderr.readline() for pod in pods if pod.stderr is not None} == {"ready\n"}
    for pod in pods:
        pod.terminate()
    assert {pod.wait(5) for pod in pods} == {130}
    for pod in pods:
        pod.communicate()


def test_image_name_cannot_inject_yaml() -> None:
    with pytest.raises(SettingsError, match="invalid image name"):
        kubernetes_manifest(timedelta(hours=1), image="x\n  evil: 1", config=HERE.config, environment=HERE.environment)


def test_containerfile_matches_the_sources_and_the_manifest() -> None:
    top = Path(__file__).parents[2]
    lines, copied = (top / "docs" / "Containerfile").read_text().splitlines(), set()
    for line in lines:
        if line.startswith("COPY "):
            *sources, _ = line.split()[1:]
            assert all((top / source).exists() for source in sources), line
            copied.update(sources)
    build = tomllib.loads((top / "pyproject.toml").read_text())
    assert copied >= set(build["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"])
    (user,) = [line.split()[1] for line in lines if line.startswith("USER ")]
    manifest = yaml.safe_load(
        kubernetes_manifest(timedelta(hours=1), image="x", config=HERE.config, environment=HERE.environment)
    )
    identity = manifest["spec"]["jobTemplate"]["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{identity['runAsUser']}:{identity['runAsGroup']}"
    assert identity["runAsUser"] > 0
