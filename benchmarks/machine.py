"""What a machine is, and how fast it copies and multiplies: the floors that the parts are held against."""

import importlib.metadata
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp

_COPY_FLOATS = 2**26  # 256 MB: far larger than any cache
_MATMUL_SIZE = 2048


def describe() -> dict:
    """Processor or accelerator, number of cores or devices, Python and package versions."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "scipy", "torch")
    return {
        "processor": _processor(),
        "cores": len(_usable_cores()),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "python": platform.python_version(),
        "versions": {name: version for name in packages if (version := _version(name))},
    }


def headline() -> str:
    """What `describe` says, as a line."""
    machine = describe()
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"{machine['processor']}, {machine['cores']} cores, {machine['device']}; {versions}"


def measure_floors() -> dict[str, float]:
    """{"copy_bytes_per_s", "matmul_flops_per_s"}, float32, best of a few on the default device.

    A copy of n bytes moves 2 n: it reads and writes.
    """
    # In place: fresh memory would measure the page faults of the operating system.
    x = jnp.zeros(_COPY_FLOATS, jnp.float32)
    copied = _best_seconds(jax.jit(lambda x: x + 1, donate_argnums=0), x)
    a = jnp.ones((_MATMUL_SIZE, _MATMUL_SIZE), jnp.float32)
    product = _best_seconds(jax.jit(lambda a: jnp.matmul(a, a, precision="highest") / _MATMUL_SIZE), a)
    return {"copy_bytes_per_s": 2 * 4 * _COPY_FLOATS / copied, "matmul_flops_per_s": 2 * _MATMUL_SIZE**3 / product}


def _best_seconds(function, x) -> float:
    """The shortest of a few calls, each on the result of the one before."""
    x = jax.block_until_ready(function(x))
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        x = jax.block_until_ready(function(x))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _usable_cores() -> set[int]:
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
