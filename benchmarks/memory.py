"""Memory of this process as the kernel counts it; Linux only.

The peak of getrusage is of no use: a child's is never below what its parent had reached.
"""

from pathlib import Path


def resident_bytes() -> int:
    """Resident now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that was resident since the start, or since `restart_peak`."""
    return _status("VmHWM")


def restart_peak() -> None:
    """Counts the peak anew, from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
