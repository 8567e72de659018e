"""Limits for a Mac's iogpu.wired_limit_mb, the memory that its GPU may hold."""

# Memory for macOS itself and its windows: a fifth, but at most what its default leaves of 128 GB.
SYSTEM_SHARE, SYSTEM_LEAST, SYSTEM_MOST = 0.2, 4 << 30, 16 << 30
MIB = 1 << 20


def highest_limit(size: int) -> int:
    """The highest GPU limit that does not starve macOS, in bytes. `size`: the Mac's memory in bytes."""
    system = min(SYSTEM_MOST, max(SYSTEM_LEAST, int(SYSTEM_SHARE * size)))
    return (size - system) // MIB * MIB


def raised(need: int, highest: int) -> int:
    """A GPU limit for a need in bytes: rounded up to whole GiB, at most `highest`."""
    gib = 1024 * MIB
    return min(-(-need // gib) * gib, highest)
