"""Files are written completely or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothout.common.files import atomic_write, atomic_write_text, ensure_writable


def test_a_file_appears_whole_when_the_block_ends_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with atomic_write(path) as part:
        part.write_text("half")
        assert not path.exists()
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_content_and_nothing_next_to_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with atomic_write(path) as part:
            part.write_text("ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_to_sync_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError("no space left on device")

    path = tmp_path / "file.txt"
    atomic_write_text(path, "old")
    monkeypatch.setattr("smoothout.common.files.os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        atomic_write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with atomic_write(path) as slow:
        slow.write_text("half of")
        atomic_write_text(path, "whole")
        assert path.read_text() == "whole"
        slow.write_text("the last one")
    assert path.read_text() == "the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for name in ("a.json", "a.json.part17", "a.json.part99999-0a1b2c3d", "ab.json.part17"):
        (tmp_path / name).write_text("x")
    ensure_writable(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "ab.json.part17"]
