"""What is written whole or not at all: old or new, never half, never both, and no litter."""

import os
import stat

import pytest

from rearm_jax.files import replace_text, whole_file, whole_folder


class Stop(BaseException):
    """As Ctrl-C: no Exception."""


def write_file(path, text):
    with whole_file(path) as temporary:
        temporary.write_text(text)


def write_folder(path, text, replace=False):
    with whole_folder(path, replace) as temporary:
        (temporary / "inside").write_text(text)


def fail_inside(whole, name, error):
    """Writes half, then raises."""
    with whole as temporary:
        (temporary / name).write_text("half")
        raise error


def names(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("write", [write_file, replace_text])
def test_a_file_is_replaced_and_readable_as_the_umask_says(tmp_path, write):
    path = tmp_path / "a.json"
    old = os.umask(0o027)
    try:
        write(path, "old")
        write(path, "new")
    finally:
        os.umask(old)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError, Stop])
def test_a_file_that_fails_leaves_the_old_one(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(error):
        fail_inside(whole_file(path), "", error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_several_may_write_the_same_file_at_a_time(tmp_path):
    path = tmp_path / "a"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == ["a"]


def test_what_a_killed_process_left_is_written_over(tmp_path):
    replace_text(tmp_path / "a", "old")
    (tmp_path / "a.tmp").write_text("half of what a killed process wrote")
    replace_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert names(tmp_path) == ["a"]


def test_a_relative_path_is_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_file("a", "file")
    write_folder("b", "folder")
    assert ((tmp_path / "a").read_text(), (tmp_path / "b" / "inside").read_text()) == ("file", "folder")


@pytest.mark.parametrize("replace", [False, True])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_that_fails_leaves_what_was_there(tmp_path, replace, there):
    path = tmp_path / "out"
    if there:
        write_folder(path, "old")
    with pytest.raises(Stop):
        fail_inside(whole_folder(path, replace), "inside", Stop)
    assert names(tmp_path) == (["out"] if there else [])
    assert not there or (path / "inside").read_text() == "old"


def test_a_folder_is_replaced_only_where_that_is_asked_for(tmp_path):
    path = tmp_path / "out"
    path.mkdir()
    write_folder(path, "first")  # an empty one may be there
    with pytest.raises(OSError, match="not empty"):
        write_folder(path, "second")
    assert (path / "inside").read_text() == "first"
    write_folder(path, "third", replace=True)
    assert (path / "inside").read_text() == "third"
    assert names(tmp_path) == ["out"]


def test_a_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    path, rename = tmp_path / "out", os.rename
    write_folder(path, "old")

    def refuse_new(source, target):
        if str(target) == str(path) and (path.parent / source / "inside").read_text() == "new":
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_new)
    with pytest.raises(OSError, match="No space"):
        write_folder(path, "new", replace=True)
    assert (path / "inside").read_text() == "old"
    assert names(tmp_path) == ["out"]
