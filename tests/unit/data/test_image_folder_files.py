"""Image folders: corrupt files, fingerprints, settings, and how a training reads them."""

from __future__ import annotations

import hashlib
import os
import weakref
from pathlib import Path

import pytest
from helpers.image_tree import tree
from helpers.small_image_folder import MEAN, STD, image_folder, loaded, names, run, whole
from torch import Tensor

from smoothout.common.errors import DataError
from smoothout.data.datasets import Collection
from smoothout.data.image_folder import ImageFolder, OnCorrupt
from smoothout.models.mlp import MLP
from smoothout.nn.evaluation import evaluate
from smoothout.results.digest import canonical_settings
from smoothout.training.batch import Batch
from smoothout.training.engine import Engine, GhostPasses, Launch

# Corrupt files


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A data folder in which one training image is cut short and one test image is text."""
    root = tree(tmp_path / "imagenette", {"train": 2, "val": 2})
    short = root / "train" / "n004" / "train_001.JPEG"
    short.write_bytes(short.read_bytes()[:300])
    (root / "val" / "n007" / "val_000.JPEG").write_text("not an image")
    return tmp_path


def test_a_corrupt_image_stops_the_run_by_name(broken: Path) -> None:
    train, test, _ = loaded(broken)
    with pytest.raises(DataError, match=r"^data: \S*train/n004/train_001.JPEG is corrupt \(.*data.on_corrupt=skip"):
        whole(train)
    with pytest.raises(DataError, match=r"^data: \S*val/n007/val_000.JPEG is corrupt \(cannot identify"):
        evaluate(MLP(4, 1).build((3, 12, 12), 10), test.batches(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_images_are_named_and_left_out(broken: Path, workers: int) -> None:
    with pytest.warns(UserWarning, match=r"1 corrupt image\(s\) left out") as warned:
        train, test, fingerprint = loaded(broken, workers=workers, on_corrupt=OnCorrupt.skip)
    assert [str(warning.message).split("imagenette/")[1] for warning in warned] == [
        "train/n004/train_001.JPEG",
        "val/n007/val_000.JPEG",
    ]
    assert [len(train), len(test)] == [19, 19]
    assert whole(train).shape[0] == 19
    assert train.labels.tolist() == [int(name[1:4]) for name in names(train)]
    assert "n004/train_001.JPEG" not in names(train)
    assert fingerprint != loaded(broken)[2], "rows have other numbers, so no training of all files goes on with these"
    for warning in warned:
        Path(str(warning.message).rpartition(": ")[2]).unlink()
    assert fingerprint == loaded(broken)[2]


def test_an_image_that_was_deleted_stops_the_run(tmp_path: Path) -> None:
    root = tree(tmp_path / "imagenette", {"train": 1, "val": 1})
    train = loaded(tmp_path)[0]
    (root / "train" / "n000" / "train_000.JPEG").unlink()
    with pytest.raises(DataError, match=r"n000/train_000.JPEG is corrupt .*No such file"):
        whole(train)


# Folders


def test_the_fingerprint_covers_names_and_sizes_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    _, _, before = loaded(folder)
    root = folder / "imagenette"
    lines = sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in root.rglob("*.JPEG"))
    assert before == hashlib.sha256("".join(f"{name}\0{size}\n" for name, size in lines).encode()).hexdigest()
    assert loaded(folder, train_examples=5)[2] == before
    copy = tree(tmp_path / "imagenette", {"train": 6, "val": 2})
    assert loaded(tmp_path)[2] == before
    first = next(copy.rglob("*.JPEG"))
    first.write_bytes(first.read_bytes() + b"\0")
    assert loaded(tmp_path)[2] != before


def test_a_missing_or_unfit_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^data: imagenette was not found: looked in \S*imagenette/train; it must contain 10"
    ):
        loaded(tmp_path)
    tree(tmp_path / "imagenette", {"train": 1, "val": 1}, classes=9)
    with pytest.raises(DataError, match=r"imagenette/train contains 9 class folders; it must contain 10 folders"):
        loaded(tmp_path)


def test_a_class_without_images_and_a_folder_that_is_reached_twice_are_named(tmp_path: Path) -> None:
    tree(tmp_path / "imagenette", {"train": 1, "val": 1})
    train = tmp_path / "imagenette" / "train"
    first = min(path for path in train.iterdir() if path.is_dir())
    (first / "loop").symlink_to(first)
    with pytest.raises(DataError, match=rf"^data: {train} contains {first} twice, through a link"):
        loaded(tmp_path)
    (first / "loop").unlink()
    for path in first.iterdir():
        path.unlink()
    with pytest.raises(DataError, match=rf"^data: {first} contains no images; it must contain 10"):
        loaded(tmp_path)


def test_names_may_be_any_bytes_and_links_lead_nowhere(tmp_path: Path) -> None:
    tree(tmp_path / "imagenette", {"train": 1, "val": 1})
    first = min((tmp_path / "imagenette" / "train").rglob("*.JPEG"))
    os.rename(first, os.fsencode(first.parent) + b"/a\xff.JPEG")  # noqa: PTH104 -- pathlib takes no bytes
    (first.parent / "z.JPEG").symlink_to("nowhere")
    with pytest.warns(UserWarning, match=r"^data: 1 corrupt image\(s\) left out: \S+z\.JPEG"):
        loaded(tmp_path, on_corrupt=OnCorrupt.skip)


def test_a_split_without_a_sound_image_is_refused(tmp_path: Path) -> None:
    tree(tmp_path / "imagenette", {"train": 1, "val": 1})
    for path in (tmp_path / "imagenette" / "val").rglob("*.JPEG"):
        path.write_bytes(b"x")
    with pytest.raises(DataError, match=r"val/\S+ and all other images of its split are corrupt$"):
        loaded(tmp_path, on_corrupt=OnCorrupt.skip)


# Settings


def test_workers_and_corrupt_files_do_not_change_what_a_record_is() -> None:
    plain = canonical_settings(image_folder(), defaults=False)
    assert canonical_settings(image_folder(workers=3, on_corrupt=OnCorrupt.skip), defaults=False) == plain
    assert canonical_settings(image_folder(draft=True), defaults=False) != plain


def test_what_is_expected_of_imagenet() -> None:
    imagenet = ImageFolder(Collection.imagenet, MEAN, STD)
    assert (imagenet.shape, imagenet.classes, imagenet.expected_sizes) == ((3, 224, 224), 1000, (1_281_167, 50_000))
    held = ImageFolder(Collection.imagenet, MEAN, STD, validation_size=1167, train_examples=16384, test_examples=500)
    assert held.expected_sizes == (16384, 500)


# How a training reads them


def test_an_update_holds_no_more_images_than_two_ghost_batches(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ghost batch in the network and the next one: 8 of the 48 examples of an update."""
    alive: list[int] = []
    held = weakref.WeakSet[Tensor]()
    training = run(folder, 0, batch=Batch(24, 4, 2))
    gather = training._examples.gather

    def counted(rows: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = gather(rows)
        held.add(images)
        alive.append(sum(map(len, held)))
        return images, labels

    monkeypatch.setattr(training._examples, "gather", counted)
    next(iter(training))
    assert len(alive) == 12
    assert max(alive) <= 8


@pytest.mark.parametrize("launch", [Launch.auto, Launch.eager])
def test_image_folders_are_trained_on_eagerly_one_ghost_batch_at_a_time(folder: Path, launch: Launch) -> None:
    training = run(folder, 0, engine=Engine(launch=launch, ghosts=GhostPasses.batched))
    assert not image_folder().resident
    assert training.engine.launch is Launch.eager
    assert training.engine.ghosts is GhostPasses.sequential
