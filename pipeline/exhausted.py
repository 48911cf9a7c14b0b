"""Whether an error says that room on a disk, or memory, has run out. Libraries say it in many ways."""

import errno

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def is_full(error: BaseException) -> bool:
    """Whether a write failed for want of room: a full disk, a quota, a limit on file sizes. Libraries wrap the cause."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and not any(cause is each for each in seen):  # a chain may end in a circle
        if isinstance(cause, OSError) and cause.errno in _FULL:
            return True
        if any(f"os error {number})" in str(cause) for number in _FULL) or "No space left on device" in str(cause):
            return True
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device or the machine had no memory left for what was asked."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text or "can't allocate memory" in text)
