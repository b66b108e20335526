"""The walk of folders: what is found, what is left out and said, links in every shape."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from headstart.common.errors import DataError, ImageError, UnknownNameError
from headstart.data.left_out import Unread
from headstart.data.walk import walk

pytestmark = pytest.mark.neutral


def picture(path: Path, grey: int = 0, kind: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (grey, grey, grey)).save(path, kind)
    return path


def names(root: Path, on_error: str = "raise") -> list[str]:
    return [os.path.relpath(file, root) for file in walk(root, on_error).files]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    picture(tmp_path / "root" / "a.png")
    picture(tmp_path / "root" / "below" / "b.JPG")
    return tmp_path / "root"


def test_files_come_before_folders_and_both_sorted(root: Path) -> None:
    picture(root / "z.webp")
    picture(root / "below" / "again" / "c.bmp")
    picture(root / "Before" / "d.png")
    assert names(root) == ["a.png", "z.webp", "Before/d.png", "below/b.JPG", "below/again/c.bmp"]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".jpg_large", "", ".JPG~", ".tmp"])
def test_content_decides_where_the_name_says_nothing(root: Path, suffix: str) -> None:
    picture(root / f"x{suffix}", kind="JPEG")
    assert f"x{suffix}" in names(root)


def test_what_is_no_image_is_named_with_what_it_is(root: Path) -> None:
    picture(root / "x.ico", kind="ICO")
    (root / "labels.csv").write_text("file,label\n")
    (root / "nothing").touch()
    with pytest.raises(ImageError, match=r"labels\.csv: .*but text \(and 2 more files.*on_error") as caught:
        walk(root)
    assert caught.value.source == str(root / "labels.csv")
    found = walk(root, "skip")
    assert len(found.files) == 2
    assert {Path(path).name: reason for path, reason in found.skipped} == {
        "labels.csv": "is not an image that is read here but text",
        "nothing": "is not an image: the file is empty",
        "x.ico": found.skipped[2].reason,
    }
    assert "an icon" in found.skipped[2].reason


def test_a_link_to_what_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    (root / "owl").symlink_to(tmp_path / "disk" / "owl")
    (root / "self").symlink_to("self")
    (root / "x.png").symlink_to(tmp_path / "disk" / "x.png")
    with pytest.raises(DataError, match=r"owl is a link to .*disk/owl, which is not there.*self.*circle.*x\.png"):
        walk(root)
    left_out = walk(root, "skip").skipped
    assert [Path(left.path).name for left in left_out] == ["owl", "self", "x.png"]
    assert all(isinstance(left, Unread) for left in left_out)


def test_links_that_lead_back_or_up_are_cut_and_said(root: Path, tmp_path: Path) -> None:
    picture(tmp_path / "beside.png")
    for k, target in enumerate([root, root / "below", tmp_path, Path("/")]):
        (root / "below" / f"up{k}").symlink_to(target)
    (root / "aside").symlink_to(root / "below")
    found = walk(root)
    assert [os.path.relpath(file, root) for file in found.files] == ["a.png", "below/b.JPG"]
    assert {Path(left.path).name for left in found.skipped} == {"up0", "up1", "up2", "up3", "aside"}
    assert not any(isinstance(left, Unread) for left in found.skipped)


def test_a_linked_folder_is_walked_once_in_its_place(root: Path, tmp_path: Path) -> None:
    picture(tmp_path / "disk" / "deep" / "e.png")
    (tmp_path / "disk" / "out").symlink_to(tmp_path)
    (root / "b1").symlink_to(tmp_path / "disk")
    (root / "b2").symlink_to(tmp_path / "disk")
    (root / "b3").symlink_to(tmp_path / "disk" / "deep")
    assert names(root) == ["a.png", "b1/deep/e.png", "below/b.JPG"]
    (tmp_path / "entry").symlink_to(root)
    assert [Path(file).name for file in walk(tmp_path / "entry").files] == ["a.png", "e.png", "b.JPG"]


def test_a_linked_folder_does_not_lead_up_either(root: Path, tmp_path: Path) -> None:
    picture(tmp_path / "disk" / "pictures" / "e.png")
    picture(tmp_path / "disk" / "private.png")
    (tmp_path / "disk" / "pictures" / "up").symlink_to("..")
    (root / "more").symlink_to(tmp_path / "disk" / "pictures")
    assert names(root) == ["a.png", "below/b.JPG", "more/e.png"]
    assert [Path(left.path).name for left in walk(root).skipped] == ["up"]


@pytest.mark.parametrize(
    "name",
    [
        *("@eaDir", "#recycle", "@Recycle", "_gsdata_", "$RECYCLE.BIN", "System Volume Information", "lost+found"),
        *("Thumbs.db", "ehthumbs.db", "desktop.ini", ".DS_Store", "Icon\r", "__MACOSX", ".AppleDouble"),
        *(".Trash-1000", ".ipynb_checkpoints", "x.jpg:Zone.Identifier", "found.000"),
    ],
)
@pytest.mark.parametrize("below", ["", "below"])
def test_litter_is_ignored_at_every_level(
    root: Path, name: str, below: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = names(root)
    caplog.set_level("DEBUG", "headstart")
    picture(root / below / name / "thumb.png")
    (root / below / name.upper()).mkdir(exist_ok=True)
    assert names(root) == before
    assert walk(root).skipped == ()
    assert f"ignored: {root / below / name}" in [record.getMessage() for record in caplog.records]


def test_a_picture_called_nearly_as_what_chkdsk_saves_is_one(root: Path) -> None:
    picture(root / "found.01.jpg")
    assert "found.01.jpg" in "".join(walk(root).files)


def test_what_is_in_a_cloud_only_is_not_left_out_without_a_word(root: Path) -> None:
    (root / ".c.jpg.icloud").write_bytes(b"bplist00")
    with pytest.raises(DataError, match=r"c\.jpg\.icloud stands for a file that is in iCloud only"):
        walk(root)
    assert [type(left) for left in walk(root, "skip").skipped] == [Unread]


def test_only_what_is_not_named_as_an_image_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(root / "x", kind="PNG")
    opened = []
    real = open

    def watched(path: str, mode: str) -> object:
        opened.append(Path(path).name)
        return real(path, mode)

    monkeypatch.setattr("headstart.data.file_system.open", watched, raising=False)
    assert len(walk(root).files) == 3
    assert opened == ["x"]


def test_a_folder_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def locked(path: str) -> object:
        if Path(path).name == "below":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", locked)
    with pytest.raises(DataError, match="below cannot be read: Permission denied"):
        walk(root)
    assert [type(left) for left in walk(root, "skip").skipped] == [Unread]


def test_pipes_and_paths_that_are_no_folders(root: Path, tmp_path: Path) -> None:
    os.mkfifo(root / "pipe.png")
    assert [left.reason[:9] for left in walk(root, "skip").skipped] == ["is a pipe"]
    with pytest.raises(DataError, match="no such file or folder"):
        walk(tmp_path / "gone", "skip")
    with pytest.raises(UnknownNameError, match="on_error 'ignore'"):
        walk(root, "ignore")
    assert walk(root / "a.png").files == (str(root / "a.png"),)
    (tmp_path / "link.png").symlink_to("gone.png")
    with pytest.raises(DataError, match=r"link\.png is a link to gone\.png, which is not there"):
        walk(tmp_path / "link.png")
    assert walk(tmp_path / "link.png", "skip").files == ()
