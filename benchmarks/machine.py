"""What a result was measured on."""

import os
import pathlib
import platform
import subprocess
import time
from importlib import metadata

PACKAGES = (
    *("jax", "jaxlib", "keras", "tensorflow", "tensorflow-cpu", "torch"),
    *("numba", "triton", "numpy"),
    *("causal-conv1d", "flash-linear-attention", "mamba-ssm", "mambapy"),
    "transformers",
)
_CPUS = pathlib.Path("/proc/cpuinfo")


def describe() -> dict:
    """Machine, versions, commit and date."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gib": round(_memory() / 2**30),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "versions": {
            name: version
            for name in PACKAGES
            if (version := _version(name)) is not None
        },
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def cores() -> int:
    """How many cores this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() if allowed is None else len(allowed(0))


def load() -> float:
    """Processes that wanted a core, on average over the last minute."""
    return round(os.getloadavg()[0], 2)


def free_memory() -> int:
    """Bytes that nobody uses."""
    path = pathlib.Path("/proc/meminfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return _memory()


def _memory():
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _processor():
    if _CPUS.exists():
        for line in _CPUS.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _version(package):
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _commit():
    here = pathlib.Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return found.stdout.strip() or None
