"""Time and memory of something that runs."""

import ctypes
import gc
import pathlib

import frameworks

# Short calls are made several times in a row, for at least that long.
SAMPLE_SECONDS = 0.005
MOST_CALLS = 50
# Of `mallopt`: what is larger is mapped by itself.
_MMAP_THRESHOLD, _PAGES = -3, 65536
_SELF = pathlib.Path("/proc/self")


def calls_in_a_row(seconds: float) -> int:
    """How many calls of so many seconds make one sample."""
    return min(MOST_CALLS, max(1, round(SAMPLE_SECONDS / max(seconds, 1e-9))))


def peak_memory(run) -> int | None:
    """Bytes that a run adds, at its peak, to what the process or device holds.

    That is what it returns and what it needs in between, but not its inputs
    and weights. On a CPU call it in a process that has run nothing else:
    allocators keep what they were given before. It is `None` where the system
    does not tell the peak.
    """
    allocated = frameworks.load().allocated(run)
    if allocated is not None:
        return allocated
    if not (_SELF / "clear_refs").exists():
        return None
    gc.collect()
    _return_freed_memory()
    before = _status("VmRSS")
    (_SELF / "clear_refs").write_text("5")  # starts a new peak
    outputs = run()
    frameworks.load().wait(outputs)
    return max(0, _status("VmHWM") - before)


def keep_no_freed_memory() -> None:
    """Lets every tensor be memory that the system has just given.

    Otherwise the C library serves small ones from what was freed before, and
    a peak does not show them. Slower: not for processes whose time counts.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, _PAGES)


def _return_freed_memory():
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(field):
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise KeyError(field)
