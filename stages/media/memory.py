"""The memory limit of the decoding child: so many megabytes of address space on top of the libraries it has loaded.

Libraries map hundreds of megabytes (torch: gigabytes) that say nothing about the file at hand, so loading one moves the
limit up by what it mapped. Only the soft limit is used. Where the platform has no /proc the limit stays as it is.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STATM = Path("/proc/self/statm")


def mapped_bytes() -> int:
    """Address space in use by this process."""
    return int(_STATM.read_text().split()[0]) * resource.getpagesize()


def limit_memory(megabytes: int) -> None:
    """Let this process map `megabytes` more than now; beyond that allocations fail with MemoryError."""
    _set_soft_limit(mapped_bytes() + (megabytes << 20) if _STATM.exists() else resource.RLIM_INFINITY)


@contextmanager
def loading_library() -> Iterator[None]:
    """What is mapped inside the block does not count against the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY or not _STATM.exists():
        yield
        return
    before = mapped_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        yield
    finally:
        _set_soft_limit(soft + max(0, mapped_bytes() - before))


def _set_soft_limit(limit: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
