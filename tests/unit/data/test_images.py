"""MNIST and CIFAR-10: real files where $P2PSIM_DATA has them, small ones everywhere."""

from __future__ import annotations

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from p2psim import registry, rng
from p2psim.base import Data
from p2psim.errors import InputError
from tests.support.datasets import open_data

REAL = os.environ.get("P2PSIM_DATA", "")


def real(name: str, **params: Any) -> Data:
    """A published data set, or a skipped test."""
    if not (Path(REAL) / name).is_dir() or not REAL:
        pytest.skip(f"P2PSIM_DATA has no folder {name}")
    return open_data(name, **params)


# MNIST


def idx(values: np.ndarray[Any, Any], zipped: bool = True) -> bytes:
    head = struct.pack(f">{values.ndim + 1}I", 2048 + values.ndim, *values.shape)
    return gzip.compress(head + values.tobytes(), 1) if zipped else head + values.tobytes()


def small_mnist(folder: Path, zipped: bool = True) -> np.ndarray[Any, Any]:
    """Files of 1300 training and 20 test images of 6 x 5 pixels; the training images."""
    folder.mkdir(parents=True)
    images = rng.generator(1, "test").integers(0, 256, (1300, 6, 5), np.uint8)
    end = ".gz" if zipped else ""
    for name, part in (("train", images), ("t10k", images[:20])):
        labels = (np.arange(len(part)) % 10).astype(np.uint8)
        (folder / f"{name}-images-idx3-ubyte{end}").write_bytes(idx(part, zipped))
        (folder / f"{name}-labels-idx1-ubyte{end}").write_bytes(idx(labels, zipped))
    return images


@pytest.mark.parametrize("place", ["mnist", "MNIST/raw", "mnist/MNIST/raw"])
@pytest.mark.parametrize("zipped", [True, False])
def test_mnist_reads_the_rows_asked_for(home: Path, place: str, zipped: bool) -> None:
    images = small_mnist(home / place, zipped)
    data = open_data("mnist")
    wanted = np.array([1299, 0, 1024, 1023, 7])  # in any order, on both sides of a block's edge
    inputs, targets = data.train(wanted)
    assert data.shape == (1, 6, 5)
    assert inputs.nbytes == 5 * 30
    assert inputs.base is None or inputs.base.nbytes == 5 * 30
    assert np.array_equal(inputs[:, 0], images[wanted])
    assert targets.tolist() == (wanted % 10).tolist()
    assert data.test()[0].shape == (20, 1, 6, 5)


def damage(path: Path, how: str) -> None:
    raw = gzip.decompress(path.read_bytes())
    if how == "cut archive":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "bad checksum":
        changed = bytearray(path.read_bytes())
        changed[-6] ^= 1
        path.write_bytes(changed)
    elif how == "empty":
        path.write_bytes(b"")
    else:
        made = {"cut": raw[:-1], "longer": raw + b"0", "magic": b"\0\0\x09" + raw[3:]}[how]
        path.write_bytes(gzip.compress(made))


@pytest.mark.parametrize("how", ["cut archive", "bad checksum", "empty", "cut", "longer", "magic"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"])
def test_mnist_damaged_file_is_named_with_the_cure(home: Path, name: str, how: str) -> None:
    small_mnist(home / "mnist")
    damage(home / "mnist" / name, how)
    with pytest.raises(InputError, match=rf"{name}.*p2psim data fetch mnist"):
        open_data("mnist").train(np.arange(3))


def test_mnist_files_that_do_not_belong_together(home: Path) -> None:
    small_mnist(home / "mnist")
    labels = home / "mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(idx(np.zeros(1299, np.uint8)))
    with pytest.raises(InputError, match="1300 images for 1299 labels"):
        open_data("mnist")
    labels.write_bytes(idx(np.full(1300, 10, np.uint8)))
    with pytest.raises(InputError, match="label 10"):
        open_data("mnist").labels()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_missing_data_set_says_how_to_get_it(home: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"p2psim data fetch {name}.*P2PSIM_DATA"):
        open_data(name)


def test_mnist_published() -> None:
    data = real("mnist")
    assert np.bincount(data.labels())[[0, 1, 7, 8]].tolist() == [5923, 6742, 6265, 5851]
    inputs, targets = data.train(np.arange(0, 60000, 40))
    values = inputs * data.scale + data.shift
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05
    assert targets[:3].tolist() == data.labels()[[0, 40, 80]].tolist()
    assert data.test()[1][:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert real("mnist", scaling="unit").scale == 1 / 255


# CIFAR-10


def small_cifar(folder: Path, protocol: int = 2) -> np.ndarray[Any, Any]:
    """Six batches of 12 images; all training images (60, 3, 32, 32)."""
    folder.mkdir(parents=True)
    images = rng.generator(1, "test").integers(0, 256, (60, 3072), np.uint8)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for k, name in enumerate(names):
        part = images[12 * k : 12 * k + 12] if k < 5 else images[:12]
        batch = {"data": part, "labels": [(12 * k + i) % 10 for i in range(12)]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return images.reshape(60, 3, 32, 32)


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_reads_the_rows_asked_for(home: Path, protocol: int) -> None:
    images = small_cifar(home / "cifar10" / "cifar-10-batches-py", protocol)
    data = open_data("cifar10")
    wanted = np.array([59, 0, 12, 11, 30, 31])
    inputs, targets = data.train(wanted)
    assert np.array_equal(inputs, images[wanted])
    assert inputs.base is None
    assert targets.tolist() == (wanted % 10).tolist()
    assert np.array_equal(data.labels(), np.arange(60) % 10)
    assert np.array_equal(data.test()[0], images[:12])


def test_cifar_damaged_batch_is_named_with_the_cure(home: Path) -> None:
    small_cifar(home / "cifar10" / "cifar-10-batches-py")
    path = home / "cifar10" / "cifar-10-batches-py" / "data_batch_3"
    whole = path.read_bytes()
    wrong = (
        {"data": np.zeros((12, 3071), np.uint8), "labels": [0] * 12},
        {"data": np.zeros((12, 3072), np.uint8), "labels": [0] * 11},
        {"data": np.zeros((12, 3072), np.uint8), "labels": [10] * 12},
        {"data": np.zeros((12, 3072), np.uint8)},
        [1, 2],
    )
    for content in (whole[:-100], whole[:20], b"", *(pickle.dumps(batch, 2) for batch in wrong)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"data_batch_3.*p2psim data fetch cifar10"):
            open_data("cifar10").labels()


def test_cifar_augmentation_is_a_crop_out_of_a_black_frame(home: Path) -> None:
    import torch

    small_cifar(home / "cifar10" / "cifar-10-batches-py")
    data = open_data("cifar10")
    raw, _ = data.train(np.arange(40))
    values = torch.from_numpy(raw * data.scale + data.shift)
    made = data.augment(values, rng.generator(1, "augment"))
    assert made.shape == values.shape
    assert made.is_contiguous()
    assert torch.equal(made, data.augment(values, rng.generator(1, "augment")))
    black = torch.from_numpy(np.broadcast_to(data.shift, (3, 40, 40)).copy())
    moves = [find_crop(black.clone(), values[i], made[i]) for i in range(16)]
    assert {mirrored for _, _, mirrored in moves} == {True, False}
    assert len({(dy, dx) for dy, dx, _ in moves}) > 8
    plain = open_data("cifar10", augmentation=False)
    assert plain.augment(values, rng.generator(1, "augment")) is values


def test_cifar_augmentation_is_pinned() -> None:
    import torch

    values = rng.generator(3, "pin").standard_normal((50, 3, 32, 32)).astype(np.float32)
    data = registry.names("data")["cifar10"]()
    made = data.augment(torch.from_numpy(values), rng.generator(1, "augment"))
    digest = hashlib.sha256(made.numpy().tobytes()).hexdigest()
    assert digest == "921873d6895e88244c4938a67da83a2267dc3ccc67b55a10eb830f494b60dc95"


def find_crop(frame: Any, image: Any, crop: Any) -> tuple[int, int, bool]:
    import torch

    frame[:, 4:36, 4:36] = image
    for dy in range(9):
        for dx in range(9):
            cut = frame[:, dy : dy + 32, dx : dx + 32]
            for mirrored in (False, True):
                if torch.equal(cut.flip(-1) if mirrored else cut, crop):
                    return dy, dx, mirrored
    raise AssertionError("no crop of the framed image")


def test_cifar_published() -> None:
    data = real("cifar10")
    labels = data.labels()
    assert np.bincount(labels).tolist() == [5000] * 10
    assert labels[:8].tolist() == [6, 9, 9, 4, 1, 1, 2, 7]
    inputs, targets = data.train(np.arange(0, 50000, 50))
    assert np.array_equal(targets, labels[::50])
    values = inputs * data.scale + data.shift
    assert np.abs(values.mean(axis=(0, 2, 3))).max() < 0.05
    assert np.abs(values.std(axis=(0, 2, 3)) - 1).max() < 0.05
