"""Images read and converted by threads, a little ahead of whoever takes them, in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mofe.data.sources import LabelledImage, as_text
from mofe.errors import MofeError

Converted = TypeVar("Converted")

THREADS = 4


def read_ahead(
    images: Iterable[LabelledImage], convert: Callable[[bytes], Converted], *, ahead: int
) -> Iterator[tuple[LabelledImage, Converted | None, str]]:
    """Each image with what its bytes are converted to, or None and the reason why that is impossible.

    Args:
        images: where each is.
        convert: raises OSError or ValueError for bytes that are no usable image.
        ahead: images read at most before the first of them is taken; they bound the memory.
    """

    def read(image: LabelledImage) -> tuple[LabelledImage, Converted | None, str]:
        try:
            return image, convert(image.read()), ""
        except MofeError:  # of the store, not of the image
            raise
        except (OSError, ValueError) as error:
            return image, None, as_text(str(error)) or type(error).__name__

    waiting: deque[Future[tuple[LabelledImage, Converted | None, str]]] = deque()
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
