"""Whole files: what is at their place stays what it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from etl.files import write_whole


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_a_new_file_is_as_any_other(tmp_path: Path) -> None:
    write_whole(tmp_path / "new", b"one")
    (tmp_path / "usual").touch()
    assert (tmp_path / "new").read_bytes() == b"one"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert names(tmp_path) == {"new", "usual"}


def test_an_old_one_keeps_its_mode_and_who_reads_it_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"one")
    path.chmod(0o640)
    with path.open("rb") as reader:
        write_whole(path, b"two")
        assert reader.read() == b"one"
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_whole(path, b"three", mode=0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays(tmp_path: Path, *, there: bool) -> None:
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "target", tmp_path / "link"
    if there:
        target.write_bytes(b"one")
    link.symlink_to("deep/target")
    write_whole(link, b"two")
    assert link.is_symlink()
    assert target.read_bytes() == b"two"


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        write_whole(pipe, b"nobody reads")
    got: list[bytes] = []
    reader = Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    content = b"x" * 1_000_000
    while reader.is_alive():
        try:
            write_whole(pipe, content)
        except OSError:
            continue  # the reader has not come yet
        reader.join()
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "file", tmp_path / "folder"):
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            write_whole(path, b"one")
    assert names(tmp_path) == {"folder"}
