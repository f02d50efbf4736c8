"""An image of a shard as a tensor; of a JPEG by TorchCodec, which is there in two thirds of Pillow's time."""

from contextlib import suppress

import torch
from torch import Tensor
from torchcodec.decoders import decode_jpeg
from torchvision.transforms.functional import pil_to_tensor

from mofe.data.images import decode


def decode_pixels(content: bytes) -> Tensor:
    """Bytes (3, H, W) of what :func:`mofe.data.images.stored_form` made: a JPEG of that is plain, and not too large.

    Raises:
        ValueError: a short reason why the bytes are no usable image.
    """
    if content.startswith(b"\xff\xd8"):
        with suppress(RuntimeError):  # Pillow forgives a missing end, and says what is wrong with the others
            return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode="RGB")
    return pil_to_tensor(decode(content))
