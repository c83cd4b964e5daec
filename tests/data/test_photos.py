"""Photographs: torchvision's pixels, one outcome whatever the threads, damage named, limits fair, and what is held."""

from __future__ import annotations

import hashlib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photographs import pixels, tree
from PIL import Image
from torch import Tensor

from smoothout.data.crops import Crop, Cropping
from smoothout.data.photos import LARGEST, Collection, Damaged, Photos, PhotoSplit
from smoothout.data.reading import Pixels, Reader, decode
from smoothout.data.sources import DataError
from smoothout.evaluation import evaluate
from smoothout.identity import described
from smoothout.models.mlp import MLP
from smoothout.perturbation import Noise
from smoothout.training.checkpoint import Snapshot
from smoothout.training.engine import Engine, Ghosts, Launch
from smoothout.training.loop import Training
from smoothout.training.optimizers import Momentum
from smoothout.training.schedule import Schedule
from smoothout.training.step import Batch
from smoothout.vision import torchvision

CPU = torch.device("cpu")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN, TEST = 60, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with an imagenette of 60 and 20 photographs."""
    return tree(tmp_path_factory.mktemp("data") / "imagenette", {"train": 6, "val": 2}).parent


def photos(**settings: Any) -> Photos:
    return Photos(Collection.imagenette, MEAN, STD, **{"side": 12, "short": 14, "workers": 2, **settings})


def loaded(folder: Path, **settings: Any) -> tuple[PhotoSplit, PhotoSplit, str]:
    return photos(**settings).load(folder, CPU)


def whole(split: PhotoSplit) -> Tensor:
    return torch.cat([images for images, _ in split.batches(7)])


def names(split: PhotoSplit) -> list[str]:
    return [f"{path.parent.name}/{path.name}" for path in split._files.paths]


# --- pixels


@pytest.mark.parametrize("size", [(500, 375), (60, 90), (41, 300)])
def test_the_centre_is_torchvisions_resize_and_centre_crop(size: tuple[int, int], tmp_path: Path) -> None:
    Image.fromarray(pixels(0, *size)).save(tmp_path / "one.png")
    out = np.empty((48, 48, 3), np.uint8)
    decode(tmp_path / "one.png", lambda w, h: Cropping(Crop.none, 48, 56).piece(w, h, None), out)
    transforms = torchvision().transforms
    expected = transforms.Compose([transforms.Resize(56), transforms.CenterCrop(48)])(Image.open(tmp_path / "one.png"))
    assert np.abs(out.astype(int) - np.asarray(expected)).max() <= 1


def test_a_resized_crop_is_torchvisions_but_for_the_outermost_pixels(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(1, 300, 200))
    image.save(tmp_path / "one.png")
    out = np.empty((32, 32, 3), np.uint8)
    piece = Cropping(Crop.resized_crop_flip, 32, 40).piece(300, 200, torch.Generator().manual_seed(5))
    decode(tmp_path / "one.png", lambda w, h: piece, out)
    expected = np.asarray(image.crop(piece[:4]).resize((32, 32), Image.Resampling.BILINEAR))
    expected = expected[:, ::-1] if piece.mirrored else expected
    assert np.abs(out.astype(int) - expected)[1:-1, 1:-1].max() <= 1


def test_a_drafted_photograph_is_decoded_smaller_and_hardly_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From 4 times the size that is needed: half of the lines are decoded, and the mean error is below half a level."""
    Image.fromarray(pixels(2, 400, 320)).save(tmp_path / "one.jpg", quality=95)
    decoded, pieces = [], []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, *a, **k: decoded.append(image.size) or resize(image, *a, **k)
    )
    for draft in (False, True):
        out = np.empty((64, 64, 3), np.uint8)
        decode(tmp_path / "one.jpg", lambda w, h: Cropping(Crop.none, 64, 80).piece(w, h, None), out, draft=draft)
        pieces.append(out.astype(int))
    assert decoded == [(400, 320), (200, 160)]
    assert 0 < np.abs(pieces[0] - pieces[1]).mean() < 0.5


def test_grey_and_palette_images_become_colours(tmp_path: Path) -> None:
    image = Image.fromarray(pixels(3, 20, 20))
    for mode, name in (("L", "grey.jpg"), ("P", "palette.png"), ("CMYK", "print.jpg")):
        image.convert(mode).save(tmp_path / name)
        out = np.empty((20, 20, 3), np.uint8)
        decode(tmp_path / name, lambda w, h: Cropping(Crop.none, 20, 20).piece(w, h, None), out)
        expected = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
        assert np.abs(out - expected).max() <= 1


def test_batches_are_normalised_as_torchvision_does_it(folder: Path) -> None:
    split = loaded(folder)[1]
    transforms = torchvision().transforms
    transform = transforms.Compose(
        [transforms.Resize(14), transforms.CenterCrop(12), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    expected = torch.stack([transform(Image.open(path).convert("RGB")) for path in split._files.paths])
    assert (whole(split) - expected).abs().max() < 1.01 / 255 / min(STD)


# --- rows


def test_labels_are_those_of_the_sorted_folders_and_every_file_has_one_row(folder: Path) -> None:
    train, test, _ = loaded(folder)
    for split, part, count in ((train, "train", TRAIN), (test, "val", TEST)):
        assert sorted(names(split)) == sorted(
            f"{path.parent.name}/{path.name}" for path in (folder / "imagenette" / part).glob("*/*")
        )
        assert split.labels.tolist() == [int(name[1:4]) for name in names(split)]
        assert len(split) == count


def test_limits_take_a_mixture_of_classes_and_more_of_them_hold_the_fewer(folder: Path) -> None:
    small, large = (loaded(folder, train_examples=n, test_examples=n // 2)[:2] for n in (20, 40))
    for few, many in zip(small, large, strict=True):
        assert names(many)[: len(few)] == names(few)
    assert [len(split) for split in (*small, *large)] == [20, 10, 40, 20]
    assert len(set(small[0].labels.tolist())) >= 6
    assert torch.equal(whole(large[0].first(5)), whole(large[0])[:5])


def test_held_out_photographs_stand_in_for_the_test_split(folder: Path) -> None:
    train, held, _ = loaded(folder, held_out=15)
    assert len(train) == TRAIN - 15
    assert len(held) == 15
    assert sorted(names(train) + names(held)) == sorted(names(loaded(folder)[0]))
    with pytest.raises(DataError, match=r"^data.held_out: 60 leaves none of the 60 training images to learn$"):
        loaded(folder, held_out=60)


@given(st.lists(st.integers(0, TRAIN - 1), max_size=30), st.integers(0, 2))
def test_any_rows_can_be_taken_at_any_time(folder: Path, rows: list[int], workers: int) -> None:
    split = loaded(folder, workers=workers)[0]
    images, labels = split.take(torch.tensor(rows, dtype=torch.int64))
    again, _ = split.take(torch.tensor(rows, dtype=torch.int64))
    assert torch.equal(images, again)
    for row, image, label in zip(rows, images, labels, strict=True):
        expected, its = split.take(slice(row, row + 1))
        assert torch.equal(image, expected[0])
        assert label == its


def test_batches_can_be_left_and_begun_again_and_are_not_larger_than_memory_allows(folder: Path) -> None:
    split = loaded(folder)[0]
    first = next(iter(split.batches(9)))[0]
    assert torch.equal(whole(split)[:9], first)
    assert torch.equal(whole(split), whole(split.laid_out(torch.channels_last)))
    assert split.batches(5000).size == LARGEST
    assert whole(split.laid_out(torch.channels_last)).shape == (TRAIN, 3, 12, 12)


# --- chance


def run(folder: Path, workers: int, resume: Snapshot | None = None, **settings: Any) -> Training:
    train, test, _ = loaded(folder, workers=workers, augment=Crop.resized_crop_flip)
    torch.manual_seed(0)
    return Training(
        MLP(8, 1).build((3, 12, 12), 10),
        train,
        test,
        augmentation=photos(augment=Crop.resized_crop_flip).augmentation,
        resume=resume,
        **{
            "optimizer": Momentum(0.1),
            "schedule": Schedule(2),
            "batch": Batch(8, 4, 2),
            "noise": Noise(0.01),
            "seed": 3,
            **settings,
        },
    )


def test_a_training_ends_with_the_same_bits_with_0_1_and_2_threads(folder: Path) -> None:
    ends = [run(folder, workers).run() for workers in (0, 1, 2)]
    for end in ends[1:]:
        assert all(torch.equal(tensor, ends[0].model[name]) for name, tensor in end.model.items())
        assert end.curves["test_loss"] == ends[0].curves["test_loss"]


def test_a_training_that_was_left_in_an_epoch_goes_on_with_the_same_bits(folder: Path) -> None:
    unbroken = run(folder, 2).run()
    first = run(folder, 2)
    for now in first:
        if (now.epoch, now.step) == (1, 2):
            break
    assert all(
        torch.equal(tensor, unbroken.model[name]) for name, tensor in run(folder, 1, first.frozen()).run().model.items()
    )


def test_a_piece_depends_on_seed_epoch_and_row_alone(folder: Path) -> None:
    train = loaded(folder)[0]
    shown = {}
    for key, seed, epoch, order in (
        ("one", 1, 0, range(TRAIN)),
        ("reversed", 1, 0, reversed(range(TRAIN))),
        ("later", 1, 1, range(TRAIN)),
        ("other", 2, 0, range(TRAIN)),
    ):
        learnt = train.learnt(Cropping(Crop.crop_flip, 12, 14), seed)
        learnt.at(epoch)
        rows = learnt.awaited(torch.tensor(list(order)), 0)
        images = torch.cat([learnt.take(part)[0] for part in rows.split(11)])
        shown[key] = images[rows.argsort()]
    assert torch.equal(shown["one"], shown["reversed"])
    for other in ("later", "other"):
        same = (shown["one"] == shown[other]).flatten(1).all(1)
        assert same.sum() < TRAIN / 4  # one in 18 by chance, or more where the photograph is a square


def test_without_augmentation_the_centres_are_learnt(folder: Path) -> None:
    train = loaded(folder)[0]
    learnt = train.learnt(photos().augmentation, 0)
    learnt.at(4)
    rows = learnt.awaited(torch.arange(TRAIN), 0)
    assert torch.equal(learnt.take(rows)[0], whole(train))


# --- damage


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A data folder in which one training photograph is cut short and one test photograph is text."""
    root = tree(tmp_path / "imagenette", {"train": 2, "val": 1})
    short = root / "train" / "n004" / "train_001.JPEG"
    short.write_bytes(short.read_bytes()[:300])
    (root / "val" / "n007" / "val_000.JPEG").write_text("no photograph")
    return tmp_path


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_photograph_stops_the_run_by_name(broken: Path, workers: int) -> None:
    train, test, _ = loaded(broken, workers=workers)
    with pytest.raises(DataError, match=r"^data: \S*train/n004/train_001.JPEG is damaged \(.*\); data.damaged=skip "):
        whole(train)
    with pytest.raises(DataError, match=r"^data: \S*val/n007/val_000.JPEG is damaged \(cannot identify"):
        evaluate(MLP(4, 1).build((3, 12, 12), 10), test.batches(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_photographs_are_named_and_left_out(broken: Path, workers: int) -> None:
    with pytest.warns(UserWarning, match=r"1 damaged photograph\(s\) left out") as warned:
        train, test, fingerprint = loaded(broken, workers=workers, damaged=Damaged.skip)
    assert [str(one.message).split("imagenette/")[1] for one in warned] == [
        "train/n004/train_001.JPEG",
        "val/n007/val_000.JPEG",
    ]
    assert [len(train), len(test)] == [19, 9]
    assert whole(train).shape[0] == 19
    assert train.labels.tolist() == [int(name[1:4]) for name in names(train)]
    assert "n004/train_001.JPEG" not in names(train)
    assert fingerprint == loaded(broken)[2]  # of all files


def test_a_photograph_that_has_gone_stops_the_run(folder: Path, tmp_path: Path) -> None:
    root = tree(tmp_path / "imagenette", {"train": 1, "val": 1})
    train = loaded(tmp_path)[0]
    (root / "train" / "n000" / "train_000.JPEG").unlink()
    with pytest.raises(DataError, match=r"n000/train_000.JPEG is damaged .*No such file"):
        whole(train)


# --- folders


def test_the_fingerprint_covers_names_and_sizes_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    _, _, before = loaded(folder)
    root = folder / "imagenette"
    lines = sorted((path.relative_to(root).as_posix(), path.stat().st_size) for path in root.rglob("*.JPEG"))
    assert before == hashlib.sha256("".join(f"{name}\0{size}\n" for name, size in lines).encode()).hexdigest()
    assert loaded(folder, train_examples=5, workers=0)[2] == before
    copy = tree(tmp_path / "imagenette", {"train": 6, "val": 2})
    assert loaded(tmp_path)[2] == before
    first = next(copy.rglob("*.JPEG"))
    first.write_bytes(first.read_bytes() + b"\0")
    assert loaded(tmp_path)[2] != before


def test_a_missing_or_unfit_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"^data: imagenette was not found: looked into \S*imagenette/train; it needs 10"
    ):
        loaded(tmp_path)
    tree(tmp_path / "imagenette", {"train": 1, "val": 1}, classes=9)
    with pytest.raises(DataError, match=r"imagenette/train has 9 folders of classes; it needs 10 folders"):
        loaded(tmp_path)


def test_train_and_val_must_have_the_same_classes(tmp_path: Path) -> None:
    root = tree(tmp_path / "imagenette", {"train": 1, "val": 1})
    (root / "val" / "n009").rename(root / "val" / "n010")
    with pytest.raises(DataError, match="train and val have other classes"):
        loaded(tmp_path)


# --- settings


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"side": 20, "short": 16}, "side, short: need 1 <= side <= short, not 20, 16"),
        ({"side": 0}, "side, short: "),
        ({"workers": -1}, "workers: must be null"),
        ({"train_examples": 0}, "train_examples: must be null"),
        ({"held_out": 0}, "held_out: must be null"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        photos(**settings)


def test_threads_and_damage_are_no_part_of_what_a_record_is_of() -> None:
    plain = described(photos(), defaults=False)
    assert described(photos(workers=0, damaged=Damaged.skip), defaults=False) == plain
    assert described(photos(draft=True), defaults=False) != plain


def test_what_is_expected_of_imagenet() -> None:
    imagenet = Photos(Collection.imagenet, MEAN, STD)
    assert (imagenet.shape, imagenet.classes, imagenet.usual_examples) == ((3, 224, 224), 1000, (1_281_167, 50_000))
    held = Photos(Collection.imagenet, MEAN, STD, held_out=1167, train_examples=16384, test_examples=500)
    assert held.usual_examples == (16384, 500)


# --- memory and work ahead


def test_threads_are_ahead_by_a_batch_and_the_ring_holds_two() -> None:
    read: list[int] = []

    def note(row: int, out: Pixels) -> None:
        read.append(row)
        out[...] = row

    reader = Reader(2, 1, CPU)
    reader.expect(torch.arange(100), note)
    assert (reader.take(torch.arange(10))[:, 0, 0, 0] == torch.arange(10)).all()
    reader._forget()
    assert set(read) <= set(range(30))
    assert len(reader._ring) == 20
    for start in range(10, 100, 10):
        assert (reader.take(torch.arange(start, start + 10))[:, 2, 1, 1] == torch.arange(start, start + 10)).all()
    assert set(read) == set(range(100))


def test_without_threads_nothing_is_read_before_it_is_asked_for() -> None:
    read: list[int] = []
    reader = Reader(2, 0, CPU)
    reader.expect(torch.arange(100), lambda row, out: read.append(row))
    reader.take(torch.arange(5, 8))
    assert read == [5, 6, 7]


def test_an_update_holds_no_more_photographs_than_two_ghost_batches(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes through the network, and the next, that has just come: 8 of the 48 examples of an update."""
    alive: list[int] = []
    held = weakref.WeakSet[Tensor]()
    training = run(folder, 2, batch=Batch(24, 4, 2))
    take = training._examples.take

    def counted(rows: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = take(rows)
        held.add(images)
        alive.append(sum(len(one) for one in held))
        return images, labels

    monkeypatch.setattr(training._examples, "take", counted)
    next(iter(training))
    assert len(alive) == 12
    assert max(alive) <= 8


@pytest.mark.parametrize("launch", [Launch.auto, Launch.eager])
def test_photographs_go_through_the_network_eagerly_and_ghost_batch_after_ghost_batch(
    folder: Path, launch: Launch
) -> None:
    training = run(folder, 0, engine=Engine(launch=launch, ghosts=Ghosts.one_pass))
    assert training.engine.launch is Launch.eager
    assert training.engine.ghosts is Ghosts.in_turn


def test_a_graph_of_photographs_is_refused() -> None:
    assert not PhotoSplit.resident
    with pytest.raises(ValueError, match="a graph holds no copies, photographs"):
        Engine(launch=Launch.graph).resolved(torch.device("cuda"), "float32", recordable=PhotoSplit.resident)
