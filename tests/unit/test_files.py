"""Atomic file writes: modes, links, pipes and failures."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from etl.files import replacing, write_atomically


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_new_file_gets_the_default_mode(tmp_path: Path) -> None:
    write_atomically(tmp_path / "new", b"one")
    (tmp_path / "usual").touch()
    assert (tmp_path / "new").read_bytes() == b"one"
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert names(tmp_path) == {"new", "usual"}


def test_replacing_keeps_the_mode_and_open_readers_see_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(b"one")
    path.chmod(0o640)
    with path.open("rb") as reader:
        write_atomically(path, b"two")
        assert reader.read() == b"one"
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write_atomically(path, b"three", mode=0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("there", [True, False])
def test_symbolic_link_is_kept(tmp_path: Path, *, there: bool) -> None:
    (tmp_path / "deep").mkdir()
    target, link = tmp_path / "deep" / "target", tmp_path / "link"
    if there:
        target.write_bytes(b"one")
    link.symlink_to("deep/target")
    write_atomically(link, b"two")
    assert link.is_symlink()
    assert target.read_bytes() == b"two"


def test_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="No such device"):
        write_atomically(pipe, b"nobody reads")
    got: list[bytes] = []
    reader = Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    content = b"x" * 1_000_000
    while reader.is_alive():
        try:
            write_atomically(pipe, content)
        except OSError:
            continue  # the reader has not come yet
        reader.join()
    assert got == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_failed_write_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "none" / "file", tmp_path / "folder"):
        with pytest.raises(OSError, match=r"No such file|Is a directory"):
            write_atomically(path, b"one")
    assert names(tmp_path) == {"folder"}


def test_file_is_replaced_only_at_the_end_without_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:  # noqa: PT012
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt
    assert (path.read_bytes(), names(tmp_path)) == (b"old", {"file"})
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert (path.read_bytes(), names(tmp_path)) == (b"new", {"file"})
