"""GTSRB, German traffic signs: a folder of .ppm files a class, listed by torchvision, resized to one size."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from purify_edge.bundle.manifest import InputContract
from purify_edge.errors import InputError, reason
from purify_edge.images.decoding import read_image
from purify_toolkit.data import class_names
from purify_toolkit.data.known_datasets import KnownDataset, Parts
from purify_toolkit.data.splits import Split, check_validation_size

ORDER_SEED = 0
PARTS = ("GTSRB/Training", "GTSRB/Final_Test/Images", "GT-final_test.csv")
FOLDERS = tuple(f"{label:05}" for label in range(len(class_names.GTSRB)))
AGAIN = "remove the folder and fetch it again"


@dataclass(frozen=True)
class Gtsrb(KnownDataset):
    """The German Traffic Sign Recognition Benchmark (Stallkamp et al. 2012, doi:10.1016/j.neunet.2012.02.016).

    A sign was photographed about 30 times while a car passed it, and its photographs are much alike. The validation
    part therefore takes whole signs from the shuffled training signs, then each part is shuffled by itself.
    torchvision checks the MD5 sums of the archives that it downloads, nobody those of the files unpacked from them.
    """

    files = "torchvision's folder gtsrb (GTSRB/Training, GTSRB/Final_Test/Images and GT-final_test.csv in it)"

    def find(self, folder: Path) -> Path | None:
        """See `KnownDataset.find`; the folder itself counts under its own name."""
        places = [folder / self.folder] + ([folder] if folder.absolute().name == self.folder else [])
        return next((place for place in places if all((place / name).exists() for name in PARTS)), None)

    def read(self, found: Path, *, validation_size: int) -> Parts:
        """See `KnownDataset.read`; the images have the size that `shape` says."""
        folders = sorted(path.name for path in (found / "GTSRB" / "Training").iterdir() if path.is_dir())
        if folders != list(FOLDERS):
            raise InputError(f"{found}: expected the folders 00000 to 00042 in GTSRB/Training, got {folders}; {AGAIN}")
        train, paths = self._split(found, "train")
        test, _ = self._split(found, "test")
        check_validation_size(validation_size, len(train))
        for_training, held_out = by_sign(paths, validation_size)
        return train[for_training], train[held_out], test

    def _split(self, found: Path, part: str) -> tuple[Split, list[Path]]:
        channels, height, width = self.shape
        contract = InputContract(channels=channels, height=height, width=width)
        try:
            samples = self.torchvision(str(found.absolute().parent), split=part)._samples
        except Exception as error:  # a file or a column is missing
            raise InputError(f"{found} cannot be read ({reason(error)}); {AGAIN}") from error
        images = np.empty((len(samples), *self.shape), np.uint8)
        for index, (name, _) in enumerate(samples):
            try:
                images[index] = read_image(name, contract).transpose(2, 0, 1)
            except InputError as error:
                raise InputError(f"{error}; {AGAIN}") from error
        names, labels = zip(*samples, strict=True)
        return Split(torch.from_numpy(images), torch.tensor(labels)), [Path(name) for name in names]


def by_sign(paths: list[Path], validation_size: int) -> tuple[Tensor, Tensor]:
    """Return the positions of the training and of the validation images, so that no sign is in both.

    The photographs are `CLASS/SIGN_NUMBER.ppm`. The last sign that is taken for validation may have more of them than
    are still needed; those are in neither.

    Raises:
        InputError: no sign would be left to train on.
    """
    signs: dict[tuple[str, str], list[int]] = {}
    for position, path in enumerate(paths):
        signs.setdefault((path.parent.name, path.stem.partition("_")[0]), []).append(position)
    generator = torch.Generator().manual_seed(ORDER_SEED)
    groups = list(signs.values())
    shuffled = [groups[place] for place in torch.randperm(len(groups), generator=generator).tolist()]
    held_out: list[int] = []
    while len(held_out) < validation_size:
        held_out += shuffled.pop()
    if not shuffled:
        raise InputError(f"validation_size {validation_size} leaves none of the {len(signs)} signs to train on")
    parts = torch.tensor([place for group in shuffled for place in group]), torch.tensor(held_out[:validation_size])
    train, validation = (part[torch.randperm(len(part), generator=generator)] for part in parts)
    return train, validation
