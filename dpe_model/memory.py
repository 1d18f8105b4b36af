"""What the allocator holds on to."""

from __future__ import annotations

import ctypes
import sys


def return_free_memory() -> bool:
    """Hand memory that is free, but still held by the C allocator, back to the system; whether that can be asked for.

    glibc keeps freed blocks between those in use. After many frames went through a network in sizes that vary, as in
    finding faces, that is some hundred MB, which the next stage would come on top of.
    """
    if sys.platform != "linux":
        return False
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # another C library than glibc
        return False
    trim(ctypes.c_size_t(0))
    return True
