"""Decoding of a shard's images to tensors; JPEG by TorchCodec, which takes two thirds of Pillow's time."""

from contextlib import suppress

import torch
from torch import Tensor
from torchcodec.decoders import decode_jpeg
from torchvision.transforms.functional import pil_to_tensor

from mofe.data.images import decode


def decode_pixels(content: bytes) -> Tensor:
    """Decode an image that :func:`mofe.data.images.stored_form` stored to bytes (3, H, W).

    Its JPEGs are plain and not too large, so TorchCodec may decode them.

    Raises:
        ValueError: the bytes are not a usable image; the message is a short reason.
    """
    if content.startswith(b"\xff\xd8"):
        with suppress(RuntimeError):  # Pillow accepts a missing end, and gives a reason for other faults
            return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode="RGB")
    return pil_to_tensor(decode(content))
