"""Records: written once and whole, read back as they were, and refused by name when they are not what was written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from smoothout.common.errors import RecordError
from smoothout.results.digest import digest
from smoothout.results.records import Record, RecordStore, read_record

IDENTITY = {"kind": "train", "numerics": 1, "settings": {"class": "Experiment", "seed": 3}, "inputs": []}


def a_record(**changes: Any) -> Record:
    identity = changes.pop("identity", IDENTITY)
    named = digest(identity)
    record = Record(
        kind="train",
        name=f"f1-mnist-s3-{named[:8]}",
        digest=named,
        identity=identity,
        settings={"class": "Experiment", "seed": 3, "model": {"class": "MLP", "width": 512}},
        labels={"model": "f1", "seed": 3},
        inputs=[],
        outcome={"best": {"test_accuracy": 0.9837}, "curves": {"test_loss": [0.5, 0.25]}},
        environment={"device": "cpu", "threads": 1},
    )
    return replace(record, **changes)


@pytest.fixture
def ledger(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "results")


def path_of(record: Record, ledger: RecordStore) -> Path:
    return ledger.folder / record.kind / f"{record.name}.json"


def files(ledger: RecordStore) -> list[Path]:
    return [path for path in ledger.folder.rglob("*") if path.is_file()]


def test_a_record_is_read_as_it_was_written(ledger: RecordStore) -> None:
    record = a_record()
    assert ledger.write(record) == record
    assert ledger.get("train", record.digest) == record
    assert ledger.records("train") == [record]


@dataclass(frozen=True)
class MLP:
    recorded_as: ClassVar[str] = "MLP"

    width: int = 512
    added_later: bool = False


@dataclass(frozen=True)
class Experiment:
    recorded_as: ClassVar[str] = "Experiment"

    seed: int = 3
    model: MLP = field(default_factory=MLP)


def test_a_record_is_found_unless_a_default_has_changed_since(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    assert ledger.find("train", record.digest, Experiment()) == record
    assert ledger.find("train", "0" * 64, Experiment()) is None
    with pytest.raises(RecordError) as refused:
        ledger.find("train", record.digest, Experiment(model=MLP(width=64)))
    assert record.name in str(refused.value)


def test_a_record_that_comes_after_its_folder_was_listed_is_found(ledger: RecordStore) -> None:
    path = path_of(ledger.write(a_record()), ledger)
    os.utime(path.parent, ns=(0, 0))  # long enough ago for the listing to be kept
    other = a_record(identity={**IDENTITY, "numerics": 2})
    assert ledger.get("train", other.digest) is None
    RecordStore(ledger.folder).write(other)
    assert ledger.get("train", other.digest) == other
    path_of(other, ledger).unlink()
    assert ledger.get("train", other.digest) is None


def test_the_file_is_named_by_the_slug_and_eight_digits_of_the_digest(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    assert files(ledger) == [ledger.folder / "train" / f"f1-mnist-s3-{digest(IDENTITY)[:8]}.json"]
    assert read_record(files(ledger)[0]) == record


def test_a_record_that_is_there_is_not_written_again(ledger: RecordStore) -> None:
    first = ledger.write(a_record())
    before = path_of(first, ledger).read_bytes()
    again = ledger.write(a_record(outcome={"best": {"test_accuracy": 0.1}}))
    assert again == first
    assert path_of(first, ledger).read_bytes() == before
    assert len(files(ledger)) == 1


def test_numbers_that_are_not_finite_become_null(ledger: RecordStore) -> None:
    outcome = {"loss": math.nan, "curve": [1.0, math.inf], "points": [{"value": -math.inf}], "pair": (1, math.nan)}
    record = ledger.write(a_record(outcome=outcome))
    expected = {"loss": None, "curve": [1.0, None], "points": [{"value": None}], "pair": [1, None]}
    assert record.outcome == expected
    assert read_record(path_of(record, ledger)).outcome == expected


def test_floats_are_kept_to_the_last_bit(ledger: RecordStore) -> None:
    numbers = [0.1 + 0.2, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0]
    read_back = ledger.write(a_record(outcome={"numbers": numbers})).outcome["numbers"]
    assert [number.hex() for number in read_back] == [number.hex() for number in numbers]


def _replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(text: str) -> str:
        assert text.count(old) == 1, f"the edit needs one place with {old}"
        return text.replace(old, new)

    return edit


def _with(**changes: Any) -> Callable[[str], str]:
    def edit(text: str) -> str:
        return json.dumps({**json.loads(text), **changes})

    return edit


def _rewritten(**changes: Any) -> Callable[[str], str]:
    """Change some parts and put the checksum right again."""

    def edit(text: str) -> str:
        content = {**json.loads(text), **changes}
        del content["checksum"]
        return json.dumps({**content, "checksum": digest(content)})

    return edit


EDITS = {
    "one digit of an accuracy": (_replaced("0.9837", "0.9838"), "was changed"),
    "one digit of a curve": (_replaced("0.25", "0.24"), "was changed"),
    "a number that is now NaN": (_replaced("0.9837", "NaN"), "was changed|damaged"),
    "a setting": (_replaced('"width": 512', '"width": 511'), "was changed"),
    "a name for people": (_replaced('"model": "f1"', '"model": "c1"'), "was changed"),
    "where it ran": (_replaced('"threads": 1', '"threads": 2'), "was changed"),
    "the checksum": (_with(checksum="0" * 64), "was changed"),
    "the digest": (_rewritten(digest="0" * 64), "was changed"),
    "the identity": (_rewritten(identity={**IDENTITY, "numerics": 2}), "was changed"),
}


@pytest.mark.parametrize("what", EDITS)
def test_a_record_that_was_edited_is_refused_by_name_in_one_line(ledger: RecordStore, what: str) -> None:
    edit, message = EDITS[what]
    record = ledger.write(a_record())
    path = path_of(record, ledger)
    path.write_text(edit(path.read_text()))
    for use in (lambda: read_record(path), lambda: ledger.get("train", record.digest), lambda: ledger.records("train")):
        with pytest.raises(RecordError, match=message) as refused:
            use()
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_folder_in_place_of_a_record_is_refused(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    path = path_of(record, ledger)
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordError, match=r"is damaged or not a record \(.*directory.*\); delete it") as refused:
        ledger.get("train", record.digest)
    assert str(path) in str(refused.value)


def test_a_record_whose_layout_alone_was_changed_is_still_good(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    path = path_of(record, ledger)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(content.items())), indent=4))
    assert read_record(path) == record


def test_a_record_under_another_jobs_name_is_not_taken_for_it(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    other = digest({**IDENTITY, "numerics": 2})
    path_of(record, ledger).rename(ledger.folder / "train" / f"f1-mnist-s3-{other[:8]}.json")
    with pytest.raises(RecordError, match=other[:8]):
        ledger.get("train", other)


@pytest.mark.parametrize(
    "broken", ["smoothout.common.files.os.fsync", "smoothout.results.records.json.dumps", "pathlib.Path.replace"]
)
def test_a_writer_that_fails_in_between_leaves_no_record_and_no_rest(
    ledger: RecordStore, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(OSError, match="no space"):
            ledger.write(a_record())
    assert files(ledger) == []
    assert ledger.get("train", digest(IDENTITY)) is None
    assert ledger.write(a_record()) == a_record()


def test_the_rest_of_a_killed_writer_is_no_record(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    whole = path_of(record, ledger)
    whole.rename(whole.with_name(f"{whole.name}.part4242"))
    assert ledger.get("train", record.digest) is None
    assert ledger.records("train") == []


def test_a_record_that_another_process_deletes_is_skipped(ledger: RecordStore) -> None:
    record = ledger.write(a_record())
    (ledger.folder / "train" / "gone.json").symlink_to(ledger.folder / "deleted.json")
    assert list(ledger.iter_readable("train")) == [record]
