"""A data set that a package has installed as IDX files: read, checked by its digest, and saved; or refused."""

from __future__ import annotations

import dataclasses
import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from helpers.small_arrays import one_line, small
from numpy.typing import NDArray

from smoothout.common.errors import DataError
from smoothout.data import datasets
from smoothout.data.datasets import DATASETS, Arrays, DatasetName, load
from smoothout.data.idx_files import NAMES, read_idx

INSTALLED = Path("usr/share/datasets/mine")


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> Arrays:
    """Made-up arrays, which are what Fashion-MNIST must be until the end of the test."""
    made = Arrays(**small())
    spec = dataclasses.replace(
        DATASETS[DatasetName.digits], fetch=None, embedded=False, installed=INSTALLED, sha256=made.fingerprint()
    )
    monkeypatch.setitem(datasets.DATASETS, DatasetName.fashion_mnist, spec)
    return made


def unpacked(root: Path, arrays: Arrays) -> Path:
    """A data folder into which a package of ``arrays`` is unpacked."""
    (root / INSTALLED).mkdir(parents=True)
    for name, array in zip(NAMES, arrays, strict=True):
        write_idx(root / INSTALLED / name, array.astype(np.uint8))
    return root


@pytest.mark.parametrize("shape", [(7,), (3, 4), (5, 2, 6)])
def test_a_file_has_the_bytes_and_the_shape_that_were_written(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_idx(tmp_path / "file.gz", array)
    assert read_idx(tmp_path / "file.gz").tolist() == array.tolist()


def test_a_package_in_the_data_folder_is_read_without_network_and_saved(tmp_path: Path, arrays: Arrays) -> None:
    folder = unpacked(tmp_path, arrays)
    spec = dataclasses.replace(datasets.DATASETS[DatasetName.fashion_mnist], fetch=lambda _: pytest.fail("fetched"))
    datasets.DATASETS[DatasetName.fashion_mnist] = spec
    found = load(DatasetName.fashion_mnist, folder, download=False)
    assert found.fingerprint() == arrays.fingerprint()
    assert found.y_train.dtype == np.int64
    for name in NAMES:
        (folder / INSTALLED / name).unlink()  # from now on there is the npz file alone
    assert load(DatasetName.fashion_mnist, folder, download=False).fingerprint() == arrays.fingerprint()


def test_other_images_than_the_published_ones_are_refused_and_leave_no_file(tmp_path: Path, arrays: Arrays) -> None:
    arrays.x_test[0, 0, 0] ^= 1
    folder = unpacked(tmp_path, arrays)
    with pytest.raises(DataError, match="SHA-256") as error:
        load(DatasetName.fashion_mnist, folder)
    assert str(folder / INSTALLED) in one_line(error)
    assert not list(folder.glob("*.npz"))


def test_a_download_has_to_have_the_digest_too(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = datasets.DATASETS[DatasetName.fashion_mnist]
    other = Arrays(**small(seed=1))
    monkeypatch.setitem(datasets.DATASETS, DatasetName.fashion_mnist, dataclasses.replace(spec, fetch=lambda _: other))
    with pytest.raises(DataError, match=f"SHA-256 .* {arrays.fingerprint()}, not {other.fingerprint()}"):
        load(DatasetName.fashion_mnist, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("harm", ["missing", "cut", "not gzip", "magic", "shape"])
def test_a_damaged_file_is_one_line_that_names_it(tmp_path: Path, arrays: Arrays, harm: str) -> None:
    folder = unpacked(tmp_path, arrays)
    path = folder / INSTALLED / NAMES[2]
    content = gzip.decompress(path.read_bytes())
    if harm == "missing":
        path.unlink()
    elif harm == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif harm == "not gzip":
        path.write_bytes(content)
    elif harm == "magic":
        path.write_bytes(gzip.compress(b"\0\0\x0d" + content[3:]))
    else:
        path.write_bytes(gzip.compress(content[:-1]))
    with pytest.raises(DataError, match="gzipped IDX") as error:
        load(DatasetName.fashion_mnist, folder)
    assert str(path) in one_line(error)
    assert not list(folder.glob("*.npz"))
