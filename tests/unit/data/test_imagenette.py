"""Imagenette: small images, written here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from p2psim import registry, rng
from p2psim.base import Data
from p2psim.errors import InputError

NAMES = [f"n0{k}" for k in range(10)]


def opened(**params: Any) -> Data:
    data: Data = registry.names("data")["imagenette"](**params)
    data.open(".")
    return data


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder."""
    monkeypatch.setenv("P2PSIM_DATA", str(tmp_path))
    return tmp_path / "imagenette"


def plain(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, quality=100)


def small(folder: Path) -> None:
    """Three training images and one for the test in each class, each of one color."""
    for k, name in reversed(list(enumerate(NAMES))):
        for i in (2, 0, 1):
            plain(folder / "train" / name / f"{name}_{i}.JPEG", (20 * k, 80 * i, 100))
        plain(folder / "val" / name / "x.JPEG", (20 * k, 0, 200))
    (folder / "train" / NAMES[0] / "notes.txt").write_text("no image")
    (folder / "train" / ".DS_Store").mkdir()
    (folder / "train" / NAMES[0] / "._n00_0.JPEG").write_text("what macOS leaves")


@pytest.mark.parametrize("place", ["imagenette2-160", "imagenette2", "imagenette2-320", "."])
def test_order_is_by_class_and_name(home: Path, place: str) -> None:
    small(home / place)
    data = opened(size=16)
    assert (data.shape, data.outputs, data.classes) == ((3, 16, 16), 10, 10)
    assert data.labels().tolist() == [k for k in range(10) for _ in range(3)]
    wanted = np.array([29, 0, 7, 7])
    inputs, targets = data.train(wanted)
    assert inputs.shape == (4, 3, 16, 16)
    assert inputs.dtype == np.uint8
    assert targets.tolist() == [9, 0, 2, 2]
    colors = [[20 * (i // 3), 80 * (i % 3), 100] for i in wanted]
    assert np.abs(inputs.mean(axis=(2, 3)) - colors).max() < 3
    tests, labels = data.test()
    assert labels.tolist() == list(range(10))
    assert np.abs(tests[:, 0].mean(axis=(1, 2)) - 20 * labels).max() < 3


def test_the_middle_of_a_wide_or_high_image_is_taken(home: Path) -> None:
    small(home)
    ramp = np.tile(np.arange(240, dtype=np.uint8), (60, 1))
    folder = home / "train" / NAMES[0]
    Image.fromarray(np.stack([ramp] * 3, -1)).save(folder / "0.png")
    Image.fromarray(ramp.T).save(folder / "1.png")  # gray
    wide, high = opened(size=30).train(np.array([0, 1]))[0].astype(int)
    middle = 90.5 + 2 * np.arange(30)  # halved: the columns 90 to 149
    assert np.abs(wide - middle).max() <= 1
    assert np.abs(high - middle[:, None]).max() <= 1
    assert np.array_equal(wide, high.transpose(0, 2, 1))


def test_values_are_standardized_as_imagenet(home: Path) -> None:
    small(home)
    data = opened(size=4)
    values = np.full((3, 4, 4), 255.0) * data.scale + data.shift
    assert np.allclose(values[:, 0, 0], [2.2489, 2.4286, 2.64], atol=1e-4)
    assert np.allclose((0 * data.scale + data.shift)[:, 0, 0], [-2.1179, -2.0357, -1.8044], 1e-4)


def test_only_images_that_are_asked_for_are_decoded(home: Path) -> None:
    small(home)
    broken = home / "train" / NAMES[3] / f"{NAMES[3]}_1.JPEG"
    whole = broken.read_bytes()
    for content in (b"", b"hello", whole[:300], whole[:-60]):
        broken.write_bytes(content)
        data = opened(size=16)
        assert data.labels().size == 30
        data.train(np.array([9, 11]))
        with pytest.raises(InputError, match=rf"{broken.name}' is not an image.*data fetch"):
            data.train(np.array([10]))


def test_augmentation_moves_by_an_eighth_out_of_the_mean_color(home: Path) -> None:
    import torch

    small(home)
    values = torch.from_numpy(rng.generator(2, "test").random((64, 3, 16, 16)))
    made = opened(size=16).augment(values, rng.generator(1, "augment"))
    assert made.shape == values.shape
    edges = (made == 0).all(dim=1)
    assert set(edges.all(dim=2).sum(dim=1).tolist()) == {0, 1, 2}  # rows out of the frame
    assert torch.equal(
        opened(size=16, augmentation=False).augment(values, rng.generator(1, "a")), values
    )
    tiny = values[:, :, :4, :4]  # no frame: mirrored only
    turned = opened(size=4).augment(tiny, rng.generator(1, "augment"))
    same = [torch.equal(a, b) for a, b in zip(turned, tiny, strict=True)]
    assert 16 < sum(same) < 48
    assert all(
        keeps or torch.equal(a, b.flip(-1)) for keeps, a, b in zip(same, turned, tiny, strict=True)
    )


def test_wrong_folders(home: Path) -> None:
    with pytest.raises(InputError, match=r"no folders train and val.*p2psim data fetch imagenette"):
        opened()
    small(home)
    (home / "val" / NAMES[4]).rename(home / "val" / "n99")
    with pytest.raises(InputError, match=r"'n04' in only one of train and val"):
        opened()
    (home / "val" / "n99").rename(home / "n99")
    with pytest.raises(InputError, match=r"val' has 9 folders where 10"):
        opened()
    (home / "val" / NAMES[4]).mkdir()
    with pytest.raises(InputError, match=r"n04' holds no image"):
        opened()


def test_without_pillow_the_cure_is_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(home)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"pip install 'p2psim\[images\]'"):
        opened()


def test_opening_imports_neither_pillow_nor_torch(home: Path) -> None:
    small(home)
    code = (
        "import sys; from p2psim import registry\n"
        "data = registry.names('data')['imagenette'](); data.open('.'); data.labels()\n"
        "print({'torch', 'PIL'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
