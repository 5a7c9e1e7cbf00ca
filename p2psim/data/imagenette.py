"""Imagenette: ten classes of ImageNet, from the folders of JPEG files as they are published."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.data.augmentation import crop
from p2psim.data.files import FileSet, fetch_cure
from p2psim.errors import InputError
from p2psim.registry import plugin

if TYPE_CHECKING:
    import torch

PLACES = (
    "imagenette/imagenette2-160",
    "imagenette/imagenette2",
    "imagenette/imagenette2-320",
    "imagenette",
)
FILES = FileSet("imagenette", PLACES, fetch_cure("imagenette"))
CLASSES = 10
ENDINGS = (".jpeg", ".jpg", ".png")

PILLOW = "imagenette: reading images needs Pillow; install it with `pip install 'p2psim[images]'`"
# Red, green and blue of ImageNet's training pixels in 0..1.
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


@plugin("data", "imagenette", source="Howard 2019, Imagenette v2")
class Imagenette(Data):
    """9,469 + 3,925 photographs in 10 classes, as 3 x size x size pixels (0..255).

    Classes are the folders in `$P2PSIM_DATA/imagenette/imagenette2-160/{train,val}` (or
    imagenette2, imagenette2-320), by name. An image's shorter side is resized to `size` pixels
    (bilinear), and its middle is cut out; channels are standardized as ImageNet's.
    `augmentation`: training images are moved by up to size / 8 pixels and mirrored, at random.
    """

    size: Annotated[int, Meta(ge=1, le=4096)] = 128
    augmentation: bool = True

    outputs = CLASSES
    classes = CLASSES
    scale = 1 / (255 * STD)
    shift = -MEAN / STD

    def open(self, folder: str) -> None:
        """List the images; InputError if folders or Pillow are missing. Nothing is decoded yet."""
        root = find()
        if importlib.util.find_spec("PIL") is None:
            raise InputError(PILLOW)
        self.shape = (3, self.size, self.size)
        self._train, self._test = (images(root / part) for part in ("train", "val"))
        if list(self._train) != list(self._test):
            odd = min(set(self._train) ^ set(self._test))
            raise InputError(
                f"imagenette: {str(root)!r} has the class {odd!r} in only one of train and val; "
                f"the classes of both must be the same; {FILES.cure}"
            )

    def labels(self) -> Indices:
        return labels_of(self._train)

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        paths = listed(self._train)
        return self._read([paths[i] for i in indices.tolist()]), self.labels()[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._read(listed(self._test)), labels_of(self._test)

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Crop (batch, 3, size, size) at random out of a frame of the mean color; mirror some."""
        return crop(inputs, rng, self.size // 8, 0.0) if self.augmentation else inputs

    def _read(self, paths: list[Path]) -> NDArray[np.uint8]:
        made = np.empty((len(paths), *self.shape), np.uint8)
        for image, path in zip(made, paths, strict=True):
            image[:] = read(path, self.size)
        return made


def find() -> Path:
    """The folder that holds train/ and val/, in any of the known places."""
    for folder in FILES.folders():
        if all((folder / part).is_dir() for part in ("train", "val")):
            return folder
    first = str(FILES.folders()[0])
    raise InputError(f"imagenette: there are no folders train and val in {first!r}; {FILES.cure}")


def images(folder: Path) -> dict[str, list[Path]]:
    """The images of each class, both in the order of their names."""
    found = {
        inner.name: sorted(path for path in shown(inner) if path.suffix.lower() in ENDINGS)
        for inner in sorted(shown(folder))
        if inner.is_dir()
    }
    if len(found) != CLASSES:
        raise InputError(
            f"imagenette: {str(folder)!r} has {len(found)} folders where {CLASSES}, one for each "
            f"class, are allowed; {FILES.cure}"
        )
    for name, paths in found.items():
        if not paths:
            raise InputError(f"imagenette: {str(folder / name)!r} holds no image; {FILES.cure}")
    return found


def shown(folder: Path) -> list[Path]:
    """What a folder holds, but for what systems hide in it."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def listed(classes: dict[str, list[Path]]) -> list[Path]:
    """All images, class by class."""
    return [path for paths in classes.values() for path in paths]


def labels_of(classes: dict[str, list[Path]]) -> Indices:
    """The class of each of all images."""
    return np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])


def read(path: Path, size: int) -> NDArray[np.uint8]:
    """The middle of an image (3, size, size), gray ones in RGB. InputError if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = (round(s * size / min(image.size)) for s in image.size)
            whole = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except Exception as error:  # damage shows in many ways, wherever a decoder meets it
        raise InputError(f"{str(path)!r} is not an image ({error}); {FILES.cure}") from None
    left, top = (width - size) // 2, (height - size) // 2
    cut: NDArray[np.uint8] = np.asarray(whole.crop((left, top, left + size, top + size)))
    return cut.transpose(2, 0, 1)
