"""An image file's bytes as a tensor; of a JPEG by TorchCodec, which is there in three quarters of Pillow's time."""

from contextlib import suppress

import torch
from torch import Tensor
from torchcodec.decoders import decode_jpeg
from torchvision.transforms.functional import pil_to_tensor

from mofe.data.images import decode, is_plain, opened


def decode_pixels(content: bytes) -> Tensor:
    """Bytes (3, H, W): what :func:`mofe.data.images.decode` gives, whose checks and errors it has.

    Raises:
        ValueError: a short reason why the bytes are no usable image.
    """
    if content.startswith(b"\xff\xd8"):
        image = opened(content, load=False)
        if image.format == "JPEG" and is_plain(image):
            with suppress(RuntimeError):  # Pillow forgives a missing end, and says what is wrong with the others
                return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode="RGB")
    return pil_to_tensor(decode(content))
