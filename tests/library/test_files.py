"""Files that are written whole: permissions, links, what is refused, leftovers of killed saves."""

import contextlib
import errno
import fcntl
import os
import socket
import stat
import threading

import pytest
import torch
from full_disk import largest_file

from examples.result_files import open_result, save_json, save_tensors, save_text
from reliability_balance import ReliabilityBalancer, files
from reliability_balance.checkpoint import save
from reliability_balance.files import open_atomically, write_atomically
from reliability_balance.labels import LabelRanking, save_csv

WRITERS = {
    "write_atomically": lambda path: write_atomically(path, b"new"),
    "checkpoint": lambda path: save(path, ReliabilityBalancer(4, 2)),
    "table of labels": lambda path: save_csv(LabelRanking(*[torch.empty(0)] * 6), path),
    "text": lambda path: save_text(path, "new"),
    "JSON": lambda path: save_json(path, "new"),
    "tensors": lambda path: save_tensors(path, {}),
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


@pytest.fixture(params=[0o022, 0o077, 0o002, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def names(folder):
    return sorted(each.name for each in folder.iterdir())


def test_a_new_file_has_the_permissions_of_the_umask(write, umask, tmp_path):
    write(tmp_path / "new")
    assert mode(tmp_path / "new") == 0o666 & ~umask
    assert names(tmp_path) == ["new"]


@pytest.mark.parametrize("permissions", [0o444, 0o600, 0o640, 0o644, 0o666, 0o755], ids=oct)
def test_an_old_file_keeps_its_permissions(permissions, write, tmp_path):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    path.chmod(permissions)
    write(path)
    assert mode(path) == permissions
    assert path.read_bytes() != b"old"


def test_nobody_else_reads_a_private_file_while_it_is_written(tmp_path):
    path = tmp_path / "private"
    path.touch(0o600)
    with open_atomically(path):
        assert {mode(each) for each in tmp_path.iterdir()} == {0o600}


def test_special_bits_are_not_kept(tmp_path):
    path = tmp_path / "old"
    path.touch()
    path.chmod(0o6755)
    write_atomically(path, b"new")
    assert mode(path) == 0o755


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def make_device(path):
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("only root may make a device")


OTHERS = {
    "folder": os.mkdir,
    "named pipe": os.mkfifo,
    "socket": make_socket,
    "device": make_device,
}


@pytest.mark.parametrize("through_a_link", [False, True], ids=["itself", "through a link"])
@pytest.mark.parametrize("kind", OTHERS)
def test_anything_but_a_regular_file_is_refused(kind, through_a_link, write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    path = tmp_path / "it"
    OTHERS[kind](path.name)
    before = path.lstat()
    if through_a_link:
        path = tmp_path / "link"
        path.symlink_to("it")
    with pytest.raises(ValueError, match=f"`path` must be a regular file; got the {kind} {path}$"):
        write(path)
    after = (tmp_path / "it").lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert names(tmp_path) == ["it", "link"][: 1 + through_a_link]


@pytest.mark.parametrize("path", ["", ".", "..", "/"])
def test_a_folder_by_any_name_is_refused(path):
    with pytest.raises(ValueError, match="`path` must be a regular file; got the folder"):
        write_atomically(path, b"new")


def test_a_link_stays_and_its_target_is_replaced(write, tmp_path):
    elsewhere, here = tmp_path / "elsewhere", tmp_path / "here"
    for folder in (elsewhere, here):
        folder.mkdir()
    (elsewhere / "target").write_bytes(b"old")
    (elsewhere / "target").chmod(0o604)
    (elsewhere / "second").symlink_to("target")
    (here / "first").symlink_to(elsewhere / "second")
    write(here / "first")
    assert (here / "first").is_symlink()
    assert (elsewhere / "second").is_symlink()
    assert not (elsewhere / "target").is_symlink()
    assert (here / "first").read_bytes() == (elsewhere / "target").read_bytes() != b"old"
    assert mode(elsewhere / "target") == 0o604
    assert names(here) + names(elsewhere) == ["first", "second", "target"]


def test_a_link_to_nothing_yet_makes_its_target(write, tmp_path):
    (tmp_path / "link").symlink_to("target")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path) == ["link", "target"]


def test_a_link_into_no_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to("missing/target")
    with pytest.raises(FileNotFoundError, match="an existing folder; got "):
        write_atomically(tmp_path / "link", b"new")


def test_a_loop_of_links_is_refused(write, tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="one"):
        write(tmp_path / "one")
    assert names(tmp_path) == ["one", "two"]


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_the_folder_must_exist(folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="`path` must lie in an existing folder"):
        write_atomically(tmp_path / folder / "new", b"new")
    assert names(tmp_path) == ["file"]


def test_results_make_their_folder(tmp_path):
    save_text(tmp_path / "a" / "b" / "c.txt", "ä\n")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "ä\n".encode()


@pytest.mark.parametrize("content", ["text", None, 3, [1], bytearray(b"")])
def test_content_must_be_bytes(content, tmp_path):
    with pytest.raises(TypeError, match=f"`content` must be bytes; got {type(content).__name__}"):
        write_atomically(tmp_path / "new", content)
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", [str, os.fspath])
def test_a_path_may_be_text(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_atomically(kind("new"), b"new")
    assert (tmp_path / "new").read_bytes() == b"new"


def test_a_name_of_the_greatest_length_is_written(tmp_path):
    write_atomically(tmp_path / ("x" * 255), b"new")
    assert names(tmp_path) == ["x" * 255]


def test_nothing_of_the_file_is_there_before_the_block_ends(tmp_path):
    path = tmp_path / "new"
    with open_atomically(path) as file:
        file.write(b"x" * 100_000)
        assert not path.exists()
    assert path.read_bytes() == b"x" * 100_000


def test_the_file_can_be_read_back(tmp_path):
    with open_atomically(tmp_path / "new") as file:
        file.write(b"new")
        file.seek(0)
        assert file.read() == b"new"
    assert (tmp_path / "new").read_bytes() == b"new"


@pytest.mark.parametrize("opened", [open_atomically, open_result])
@pytest.mark.parametrize("error", [RuntimeError("stop"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_in_the_block_leaves_the_old_file(error, opened, tmp_path):
    (tmp_path / "old").write_bytes(b"old")

    def write_half():
        with opened(tmp_path / "old") as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert (tmp_path / "old").read_bytes() == b"old"
    assert names(tmp_path) == ["old"]


def test_a_file_that_the_block_closed_is_not_taken(tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(ValueError, match="closed file"), open_atomically(tmp_path / "old") as file:
        file.close()
    assert (tmp_path / "old").read_bytes() == b"old"
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("size", [11, 10_000, 1_000_000])
def test_the_error_of_a_full_disk_names_the_file_and_keeps_its_number(size, tmp_path):
    path = tmp_path / "old"
    path.write_bytes(b"old")
    with (
        largest_file(10),
        pytest.raises(OSError, match="old could not be written, and is as it was before") as found,
    ):
        write_atomically(path, bytes(size))
    assert found.value.errno == errno.EFBIG
    assert files.PREFIX not in str(found.value)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["old"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_of_the_disk_leaves_the_old_file(call, write, tmp_path, monkeypatch):
    path = tmp_path / "old"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match=r"old could not be written, and .*: Input/output error"):
        write(path)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["old"]


def test_the_content_is_on_the_disk_before_it_takes_the_path(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def note(*arguments, name=name, real=real):
            order.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, note)
    write_atomically(tmp_path / "new", b"new")
    assert order == ["fsync", "replace", "fsync"]


def test_the_next_writer_deletes_what_killed_ones_left(write, tmp_path):
    for number in range(3):
        (tmp_path / f"{files.PREFIX}{number}{files.SUFFIX}").write_bytes(b"half")
    mine = [".mine.tmp", f"{files.PREFIX}mine.txt", f"x{files.PREFIX}1{files.SUFFIX}"]
    for name in mine:
        (tmp_path / name).touch()
    write(tmp_path / "new")
    assert names(tmp_path) == sorted([*mine, "new"])


def test_a_living_writers_file_is_not_deleted(write, tmp_path):
    with open_atomically(tmp_path / "slow") as file:
        file.write(b"slow")
        write(tmp_path / "quick")
        write(tmp_path / "slow")
        assert len(names(tmp_path)) == 3
    assert (tmp_path / "slow").read_bytes() == b"slow"
    assert names(tmp_path) == ["quick", "slow"]


def test_a_file_taken_for_a_leftover_before_it_was_locked_is_made_anew(tmp_path, monkeypatch):
    """As when another writer comes between the creation of the file and its lock."""
    lock, found = files._lock, []

    def late(descriptor):
        if len(found) < 3:
            found.append(1)
            files._remove_leftovers(tmp_path)
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    write_atomically(tmp_path / "new", b"new")
    assert found == [1, 1, 1]
    assert names(tmp_path) == ["new"]
    assert (tmp_path / "new").read_bytes() == b"new"


def test_a_file_locked_by_another_before_its_writer_is_made_anew(tmp_path, monkeypatch):
    lock, others = files._lock, []

    def late(descriptor):
        if not others:
            (path,) = tmp_path.iterdir()
            others.append(os.open(path, os.O_RDWR))
            fcntl.flock(others[0], fcntl.LOCK_EX)
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    write_atomically(tmp_path / "new", b"new")
    os.close(others[0])
    assert names(tmp_path) == ["new"]


def test_without_locks_nothing_is_deleted_and_all_is_written(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    leftover = f"{files.PREFIX}1{files.SUFFIX}"
    (tmp_path / leftover).touch()
    write_atomically(tmp_path / "new", b"new")
    assert names(tmp_path) == sorted([leftover, "new"])


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, make_device, lambda p: os.symlink("old", p)])
def test_what_has_a_leftovers_name_but_is_none_stays(make, tmp_path):
    (tmp_path / "old").write_bytes(b"old")
    planted = tmp_path / f"{files.PREFIX}1{files.SUFFIX}"
    make(planted)
    write_atomically(tmp_path / "new", b"new")
    assert names(tmp_path) == sorted([planted.name, "new", "old"])
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    """Even one at the very name that the writer draws, which nobody can foresee."""
    (tmp_path / "victim").write_bytes(b"old")
    (tmp_path / f"{files.PREFIX}drawn{files.SUFFIX}").symlink_to("victim")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "drawn")
    with pytest.raises(FileExistsError, match="new could not be written"):
        write_atomically(tmp_path / "new", b"new")
    assert (tmp_path / "victim").read_bytes() == b"old"


def test_names_differ_between_writers_of_one_process(tmp_path):
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(open_atomically(tmp_path / "new"))
        assert len(names(tmp_path)) == 50
    assert names(tmp_path) == ["new"]


def test_threads_write_one_file(write, tmp_path):
    errors = []

    def work():
        try:
            for _ in range(20):
                write(tmp_path / "new")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert names(tmp_path) == ["new"]
