"""Imagenette: ten classes of ImageNet, read from the published folders of JPEG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from p2psim.base import Data, Indices
from p2psim.data.augmentation import crop
from p2psim.data.files import FileSet, check_pillow, fetch_cure
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
SUFFIXES = (".jpeg", ".jpg", ".png")

# Mean and standard deviation of red, green and blue, over ImageNet's training pixels in 0..1.
MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
STD = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)


@plugin("data", "imagenette", source="Howard 2019, Imagenette v2")
class Imagenette(Data):
    """9,469 + 3,925 photographs in 10 classes, as 3 x size x size pixels (0..255).

    Each folder in `$P2PSIM_DATA/imagenette/imagenette2-160/{train,val}` (or imagenette2,
    imagenette2-320) is a class; classes are in the order of their names. An image is resized until
    its shorter side has `size` pixels (bilinear), and its central square is cut out; channels are
    standardized with ImageNet's mean and deviation. `augmentation`: training images are moved by up
    to size / 8 pixels and mirrored, at random.
    """

    size: Annotated[int, Meta(ge=1, le=4096)] = 128
    augmentation: bool = True

    outputs = CLASSES
    classes = CLASSES
    scale = 1 / (255 * STD)
    shift = -MEAN / STD

    def open(self, folder: str) -> None:
        """List the images without decoding them; InputError if folders or Pillow are missing."""
        root = find_root()
        # Pillow is imported only by peers that read images; here it must just be installed.
        check_pillow("imagenette")
        self.shape = (3, self.size, self.size)
        self._train, self._test = (list_images(root / part) for part in ("train", "val"))
        if list(self._train) != list(self._test):
            name = min(set(self._train) ^ set(self._test))
            raise InputError(
                f"imagenette: {str(root)!r} has the class {name!r} in only one of train and val; "
                f"the classes of both must be the same; {FILES.cure}"
            )

    def labels(self) -> Indices:
        return class_indices(self._train)

    def train(self, indices: Indices) -> tuple[NDArray[Any], NDArray[Any]]:
        paths = all_paths(self._train)
        return self._read([paths[i] for i in indices.tolist()]), self.labels()[indices]

    def test(self) -> tuple[NDArray[Any], NDArray[Any]]:
        return self._read(all_paths(self._test)), class_indices(self._test)

    def augment(self, inputs: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """Pad (batch, 3, size, size) images with the mean color, crop at random and mirror half.

        The padding has size // 8 pixels on each side.
        """
        # Values are standardized before the augmentation, so the mean color is 0.
        return crop(inputs, rng, self.size // 8, 0.0) if self.augmentation else inputs

    def _read(self, paths: list[Path]) -> NDArray[np.uint8]:
        images = np.empty((len(paths), *self.shape), np.uint8)
        for image, path in zip(images, paths, strict=True):
            image[:] = read_image(path, self.size)
        return images


def find_root() -> Path:
    """Return the first known folder that holds train/ and val/; InputError if no folder does."""
    for folder in FILES.folders():
        if all((folder / part).is_dir() for part in ("train", "val")):
            return folder
    first = str(FILES.folders()[0])
    raise InputError(f"imagenette: there are no folders train and val in {first!r}; {FILES.cure}")


def list_images(folder: Path) -> dict[str, list[Path]]:
    """Return the paths of the images of each class, classes and images sorted by name.

    InputError if the number of classes is not 10 or a class holds no image.
    """
    classes = {
        inner.name: sorted(path for path in visible(inner) if path.suffix.lower() in SUFFIXES)
        for inner in sorted(visible(folder))
        if inner.is_dir()
    }
    if len(classes) != CLASSES:
        raise InputError(
            f"imagenette: {str(folder)!r} has {len(classes)} folders where {CLASSES}, one for each "
            f"class, are allowed; {FILES.cure}"
        )
    for name, paths in classes.items():
        if not paths:
            raise InputError(f"imagenette: {str(folder / name)!r} holds no image; {FILES.cure}")
    return classes


def visible(folder: Path) -> list[Path]:
    """Return the entries of a folder without hidden ones, which operating systems may add."""
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


def all_paths(classes: dict[str, list[Path]]) -> list[Path]:
    """Return the paths of all images, class by class."""
    return [path for paths in classes.values() for path in paths]


def class_indices(classes: dict[str, list[Path]]) -> Indices:
    """Return the class index of every image, in the order of `all_paths`."""
    return np.repeat(np.arange(len(classes)), [len(paths) for paths in classes.values()])


def read_image(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the central square of an image in RGB (3, size, size); InputError if it is damaged."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            width, height = (round(s * size / min(image.size)) for s in image.size)
            whole = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise InputError(f"{str(path)!r} is not an image ({error}); {FILES.cure}") from None
    left, top = (width - size) // 2, (height - size) // 2
    square: NDArray[np.uint8] = np.asarray(whole.crop((left, top, left + size, top + size)))
    return square.transpose(2, 0, 1)
