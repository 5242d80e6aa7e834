"""Damaged file systems: loops, broken links, unreadable folders, undecodable names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leakcache.dataset.index import read_index
from leakcache.errors import DataError


@pytest.fixture
def root(tmp_path):
    for name in ("a/1.png", "a/sub/2.png", "b/1.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


def test_links_that_loop_are_listed_and_followed_once(root):
    (root / "a" / "sub" / "up").symlink_to(root / "a")
    index = read_index(root)
    assert len(index.records) == 3
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("a/sub/up", "link back to a folder above it")
    ]


def test_two_classes_linked_to_each_other_end(root):
    (root / "a" / "other").symlink_to(root / "b")
    (root / "b" / "other").symlink_to(root / "a")
    index = read_index(root)
    assert {r.reason for r in index.rejects} == {"link back to a folder above it"}
    assert "a/other/1.png" in {r.path for r in index.records}


def test_broken_links_and_links_to_themselves_are_listed(root):
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    (root / "a" / "self.png").symlink_to(root / "a" / "self.png")
    index = read_index(root)
    assert len(index.records) == 3
    assert [r.path for r in index.rejects] == ["a/gone.png", "a/self.png"]
    assert index.rejects[0].reason == "broken link"


def test_links_to_images_and_folders_are_taken(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "9.png").touch()
    (root / "a" / "9.png").symlink_to(elsewhere / "9.png")
    (root / "c").symlink_to(elsewhere, target_is_directory=True)
    index = read_index(root)
    assert {"a/9.png", "c/9.png"} <= {r.path for r in index.records}
    assert index.rejects == ()


def forbid(monkeypatch, folder: Path) -> None:
    """Make one folder unreadable; permissions would not stop the root user."""
    real = os.scandir

    def scandir(path):
        if Path(path) == folder:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("folder", ["a", "a/sub"])
def test_an_unreadable_folder_is_listed_and_the_rest_goes_on(root, monkeypatch, folder):
    forbid(monkeypatch, root / folder)
    index = read_index(root)
    assert [(r.path, r.reason) for r in index.rejects] == [
        (folder, "folder cannot be read: Permission denied")
    ]
    assert "b/1.png" in {r.path for r in index.records}
    assert not any(r.path.startswith(folder + "/") for r in index.records)


def test_an_unreadable_root_is_refused_with_the_reason(root, monkeypatch):
    forbid(monkeypatch, root)
    with pytest.raises(DataError, match="Permission denied"):
        read_index(root)


def test_a_folder_that_vanishes_meanwhile_is_listed(root, monkeypatch):
    real = os.scandir

    def scandir(path):
        if Path(path) == root / "a":
            (root / "a" / "sub" / "2.png").unlink(missing_ok=True)
            entries = list(real(path))
            (root / "a" / "sub").rmdir()
            return Listing(entries)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    index = read_index(root)
    assert {r.path for r in index.records} == {"a/1.png", "b/1.png"}
    assert [r.path for r in index.rejects] == ["a/sub"]


class Listing(list):
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_a_name_that_is_not_utf8_is_listed_readably(root):
    (root / "a" / os.fsdecode(b"bad\xff.png")).touch()
    index = read_index(root)
    assert len(index.records) == 3
    assert [(r.path, r.reason) for r in index.rejects] == [
        ("a/bad\\xff.png", "the name is not valid UTF-8")
    ]


def test_a_pipe_named_like_an_image_is_never_opened(root):
    os.mkfifo(root / "a" / "pipe.png")
    assert [(r.path, r.reason) for r in read_index(root).rejects] == [
        ("a/pipe.png", "not a regular file")
    ]
