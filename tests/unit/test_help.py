"""What `--help` shows."""

from __future__ import annotations

from typer.testing import CliRunner

from etl.cli.help import GROUPS
from etl.cli.reference import commands
from etl.cli.root import load_commands

ALL = dict(commands())


def shown(*words: str) -> str:
    done = CliRunner().invoke(load_commands(), [*words, "--help"], env={"COLUMNS": "80"})
    assert done.exit_code == 0
    return done.output


def test_commands_are_shown_in_groups_one_line_each() -> None:
    lines = [line.strip("│ ") for line in shown().splitlines()]
    for title, names in GROUPS.items():
        assert any(line.startswith(f"╭─ {title} ─") for line in lines)
        for name, (_, says) in names.items():
            assert any(line.split() == f"{name} {says}".split() for line in lines)
    assert "Commands" not in {line.strip("╭─╮ ") for line in lines}


def test_flags_have_no_type_and_common_options_are_described_only_in_the_main_help() -> None:
    for name in dict.fromkeys(["", *ALL, *(name.split()[0] for name in ALL)]):
        text = shown(*name.split())
        for line in text.splitlines():
            assert "<bool>" not in line, name
            assert "--verbose" not in line or "<int>" not in line, name
        if name in ALL:
            assert "Print nothing unless something is wrong." not in " ".join(text.split()), name
            assert "Also --config, --log-format, --verbose and --quiet: see cortex-etl --help." in text, name


def test_completion_knows_common_options() -> None:
    environment = {"_CORTEX_ETL_COMPLETE": "complete_bash", "COMP_WORDS": "cortex-etl sync --qu", "COMP_CWORD": "2"}
    assert CliRunner().invoke(load_commands(), [], env=environment, prog_name="cortex-etl").output.split() == [
        "--quiet"
    ]
