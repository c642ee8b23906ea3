"""Files: atomic writes, modes, links, pipes and failures."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from etl.files import (
    create_private,
    locked,
    make_private_folder,
    read_plain,
    refuse_foreign_link,
    replacing,
    touch,
    write_atomically,
)

SOURCES = Path(__file__).parents[2] / "etl"
STRANGER = 12345  # a user id
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make links of other users")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o777], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


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


@as_root
@pytest.mark.parametrize("folder_mode", [0o1777, 0o755], ids=oct)
def test_link_of_another_user_is_not_followed(tmp_path: Path, folder_mode: int) -> None:
    """In /tmp, any user can create a link at the path where root will write a report."""
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_bytes(b"precious")
    tmp_path.chmod(folder_mode)
    link.symlink_to(victim)
    os.lchown(link, STRANGER, STRANGER)
    for use in (lambda: write_atomically(link, b"lost"), lambda: refuse_foreign_link(link)):
        with pytest.raises(OSError, match="is a symbolic link of another user") as refused:
            use()
        assert refused.value.filename == str(link)
    own = tmp_path / "own"
    own.symlink_to("link")
    with pytest.raises(OSError, match="of another user"):
        write_atomically(own, b"lost")
    assert victim.read_bytes() == b"precious"
    assert names(tmp_path) == {"victim", "link", "own"}


def test_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="symbolic links"):
        write_atomically(tmp_path / "one", b"x")


def test_predictable_temporary_name_is_not_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".new.guessed").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "new", b"x")
    assert victim.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "use", [lambda path: locked(path).__enter__(), touch, read_plain], ids=["lock", "touch", "read"]
)
def test_links_and_pipes_are_not_opened(tmp_path: Path, use) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "created")
    os.mkfifo(tmp_path / "pipe")
    for name, says in (
        ("link", "is a symbolic link"),
        ("dangling", "is a symbolic link"),
        ("pipe", "regular file|No such device"),
    ):
        with pytest.raises(OSError, match=says):
            use(tmp_path / name)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "created").exists()


def test_lock_is_held_once_and_keeps_the_file(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("kept")
    with locked(path), pytest.raises(BlockingIOError), locked(path):
        pass
    with locked(path):
        assert path.read_text() == "kept"


def test_private_files_and_folders_ignore_the_umask(tmp_path: Path, umask: int) -> None:
    create_private(tmp_path / "secret", "x")
    touch(tmp_path / "marker")
    assert make_private_folder(tmp_path / "a" / "b") == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_private_folder(tmp_path / "a" / "b") == []
    assert mode_of(tmp_path / "secret") == 0o600
    assert mode_of(tmp_path / "marker") & 0o077 == 0
    assert [mode_of(each) for each in (tmp_path / "a", tmp_path / "a" / "b")] == [0o700, 0o700]
    assert os.umask(umask) == umask


def test_private_file_replaces_no_existing_file(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "created")
    for name in ("link", "old"):
        (tmp_path / "old").write_text("kept")
        with pytest.raises(FileExistsError):
            create_private(tmp_path / name, "x")
    assert names(tmp_path) == {"link", "old"}
    assert (tmp_path / "old").read_text() == "kept"


CHANGES_FILES = {
    "open", "write_text", "write_bytes", "touch", "mkdir", "makedirs", "chmod", "chown", "fchmod", "fchown", "lchown", "rename",
    "renames", "unlink", "rmdir", "rmtree", "symlink_to",
    "hardlink_to",
    "symlink", "mkstemp", "NamedTemporaryFile", "copy",
    "copyfile", "copytree", "move",
}  # fmt: skip
ALLOWED = {
    "files.py": CHANGES_FILES,
    "db/embedded.py": {
        "open",
        "mkdir",
        "fchmod",
        "fchown",
        "rename",
        "unlink",
        "rmdir",
        "rmtree",
    },  # all below data_dir
    "export/__init__.py": {"mkdir"},
    "export/manifest.py": {"mkdir", "unlink"},
    "observe/webhooks.py": {"unlink"},
    "cli/__init__.py": {"open"},  # the standard streams
    "cli/output.py": {"open"},  # /dev/null
    "cli/sandbox.py": {"open"},  # /dev/null
}


def test_files_are_written_only_by_functions_that_check_links() -> None:
    found = {}
    for source in sorted(SOURCES.rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
        used = {called_name(call) for call in calls if called_name(call) in CHANGES_FILES and not is_harmless(call)}
        place = str(source.relative_to(SOURCES))
        if used - ALLOWED.get(place, set()):
            found[place] = used - ALLOWED.get(place, set())
    assert found == {}


def called_name(call: ast.Call) -> str:
    """Return the name of a called method, or `open`."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return "open" if isinstance(call.func, ast.Name) and call.func.id == "open" else ""


def is_harmless(call: ast.Call) -> bool:
    """Return whether a call of `open` reads, or opens something other than a file."""
    if called_name(call) == "copy":
        return True  # of environments and dictionaries
    if called_name(call) != "open":
        return False
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if isinstance(owner, ast.Name) and owner.id == "os":
        return False
    if isinstance(owner, ast.Name) and owner.id[0].isupper():
        return True  # a class method: Session.open
    modes = [each.value for each in call.args if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    return not any(set(mode) & set("wax+") for mode in modes)


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
