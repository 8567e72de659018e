"""The most that a Mac's iogpu.wired_limit_mb, the memory that its GPU may hold, can be raised to."""

# What macOS itself and its windows need: a fifth, but no more than its own default leaves of 128 GB.
SYSTEM_SHARE, SYSTEM_LEAST, SYSTEM_MOST = 0.2, 4 << 30, 16 << 30
MIB = 1 << 20


def highest_limit(size: int) -> int:
    """The most that a GPU may hold of a Mac's memory without starving the system, in bytes."""
    system = min(SYSTEM_MOST, max(SYSTEM_LEAST, int(SYSTEM_SHARE * size)))
    return (size - system) // MIB * MIB


def raised(need: int, highest: int) -> int:
    """A limit for a need in bytes: the next whole GiB, but never above the highest."""
    gib = 1024 * MIB
    return min(-(-need // gib) * gib, highest)
