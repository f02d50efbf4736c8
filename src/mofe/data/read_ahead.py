"""Images read and converted by threads, in order and a little ahead of the caller."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from mofe.data.entries import LabelledImage, NotAnImageError, as_text
from mofe.errors import MofeError

Converted = TypeVar("Converted")

THREADS = 4


class Read(NamedTuple, Generic[Converted]):
    """An entry that was read."""

    image: LabelledImage
    content: Converted | None
    """Result of converting the bytes; None if that is impossible."""
    reason: str
    """Why it is impossible."""
    passed_over: bool = False
    """Whether the entry is a file of another kind, which does not claim to be an image."""


def read_ahead(
    images: Iterable[LabelledImage], convert: Callable[[bytes], Converted], *, ahead: int
) -> Iterator[Read[Converted]]:
    """Each image with what its bytes are converted to, or the reason why that is impossible.

    Args:
        images: where each is.
        convert: raises OSError or ValueError for bytes that are no usable image.
        ahead: images read at most before the first of them is taken; they bound the memory.
    """

    def read(image: LabelledImage) -> Read[Converted]:
        try:
            return Read(image, convert(image.read()), "")
        except MofeError:  # concerns more than this image
            raise
        except (OSError, ValueError) as error:
            reason = as_text(str(error)) or type(error).__name__
            return Read(image, None, reason, isinstance(error, NotAnImageError))

    waiting: deque[Future[Read[Converted]]] = deque()
    pool = ThreadPoolExecutor(THREADS)
    try:
        for image in images:
            waiting.append(pool.submit(read, image))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nobody waits for the images that are ahead
