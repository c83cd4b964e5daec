"""The cache of passes: what it keeps, for whom, and that it never changes what is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.common import tree
from helpers.other_device import DEVICE, OtherDevice, Remote
from torch import Tensor

from smoothout.common import pass_cache
from smoothout.common.pass_cache import cached_pass, clear_pass_cache, open_pass_cache

Passes = list[int]


@pytest.fixture(autouse=True)
def every_pass_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pass_cache, "SLOW_SECONDS", 0.0)


def told(made: Passes, number: int) -> Callable[[], Tensor]:
    """A pass that notes that it was made and finds its number's root."""

    def measure() -> Tensor:
        made.append(number)
        return torch.tensor([float(number), number**0.5], dtype=torch.float64)

    return measure


def gone_through(folder: Path, passes: int, circumstances: str = "here") -> tuple[list[list[float]], Passes]:
    """What the passes find, and which of them were made."""
    made: Passes = []
    with open_pass_cache(folder, circumstances):
        found = [cached_pass(told(made, number)).tolist() for number in range(passes)]
    return found, made


def test_passes_that_were_made_are_read_and_the_others_made(tmp_path: Path) -> None:
    first, made = gone_through(tmp_path / "a", 3)
    assert made == [0, 1, 2]
    again, made = gone_through(tmp_path / "a", 5)
    assert made == [3, 4]
    assert again[:3] == first
    assert gone_through(tmp_path / "b", 5)[0] == again


def test_other_circumstances_start_again(tmp_path: Path) -> None:
    gone_through(tmp_path / "a", 3)
    assert gone_through(tmp_path / "a", 2, "elsewhere")[1] == [0, 1]
    assert len(tree(tmp_path / "a")) == 2, "those of before are gone"


def test_two_that_share_a_folder_never_read_each_others_passes(tmp_path: Path) -> None:
    """The second begins while the first is under way, which then keeps another pass and ends."""
    theirs: Passes = []
    with open_pass_cache(tmp_path / "a", "here"):
        cached_pass(told(theirs, 0))
        first = pass_cache._open.pop()
        with open_pass_cache(tmp_path / "a", "elsewhere"):
            first.get(told(theirs, 10))
            ours: Passes = []
            found = [cached_pass(told(ours, number)).tolist()[0] for number in range(2)]
            clear_pass_cache(tmp_path / "a")
            found.append(cached_pass(told(ours, 2)).tolist()[0])
        pass_cache._open.append(first)
    assert (found, ours) == ([0.0, 1.0, 2.0], [0, 1, 2])


def test_quick_passes_and_those_beyond_the_limit_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_cache, "MOST_BYTES", 2 * 16)
    gone_through(tmp_path / "a", 5)
    assert gone_through(tmp_path / "a", 5)[1] == [2, 3, 4]
    monkeypatch.setattr(pass_cache, "SLOW_SECONDS", 60.0)
    gone_through(tmp_path / "b", 5)
    assert not (tmp_path / "b").exists()


def test_a_damaged_pass_is_made_again_and_kept(tmp_path: Path) -> None:
    first, _ = gone_through(tmp_path / "a", 3)
    damaged = sorted((tmp_path / "a").glob("*.pt"))[1]
    damaged.write_bytes(damaged.read_bytes()[:100])
    assert gone_through(tmp_path / "a", 3) == (first, [1])
    assert gone_through(tmp_path / "a", 3) == (first, [])


def test_a_journal_that_is_forgotten_is_gone_and_one_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    gone_through(tmp_path / "a", 2)
    clear_pass_cache(tmp_path / "a")
    clear_pass_cache(tmp_path / "a")
    assert tree(tmp_path) == {}


def test_a_pass_on_a_device_is_timed_to_its_end_and_kept_for_any(tmp_path: Path) -> None:
    with OtherDevice() as device:
        for found_on in (DEVICE, torch.device("cpu")):
            with open_pass_cache(tmp_path / "a", "here"):
                found = cached_pass(lambda: Remote(torch.arange(3.0, dtype=torch.float64)))
                assert found.device == found_on
                assert found.tolist() == [0, 1, 2]
            if found_on == DEVICE:
                assert device.counts["waits"] >= 2, "for the end of the pass, and for its numbers"
