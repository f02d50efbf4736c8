"""What becomes of the memory of large tensors that are gone."""

import ctypes


def keep_freed_memory() -> None:
    """Have glibc keep large blocks that are freed from now on, for the next tensor; what it kept so far is given back.

    By itself it gives them back at once, and the kernel then clears every page of every tensor of 32 MB or more: a
    fifth of the time of a forward pass on a CPU. Other C libraries are left as they are. Call it before a loader starts
    its processes, which would hold what was kept as long as they live.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        most_mapped_blocks, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD
        library.malloc_trim(0)
        library.mallopt(most_mapped_blocks, 0)
        library.mallopt(trim_threshold, -1)
