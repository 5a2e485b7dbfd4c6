"""Devices that are not there, to compile for: jax needs their description alone."""

import os

import jax
from jax.experimental import topologies

# The smallest topology whose chips a host holds: libtpu reads it where it is loaded.
_TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}
_GB = 2**30
# Memory of a device, by the first word of a topology's name: what libtpu's compiler says it has to give (of a v4's two
# cores each is a device), but for v5p, which is as the vendor gives it.
_TPU_MEMORY = {"v4": int(15.25 * _GB), "v5e": int(15.75 * _GB), "v5p": 95 * _GB, "v6e": int(31.25 * _GB)}
_H100_MEMORY = 84929347584  # what the driver reports of 80 GB
# What XLA asks of a card: an H100 SXM5 80GB, by NVIDIA's data sheet and the CUDA programming guide (capability 9.0).
_H100 = f"""
gpu_device_info {{
  cuda_compute_capability {{ major: 9 }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000
  device_memory_size: {_H100_MEMORY}
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "NVIDIA H100 80GB HBM3"
"""
TOPOLOGIES = {"tpu": "v5e:1x1", "cuda": "1x1x1"}  # where none is named


def absent_devices(platform: str, topology: str | None) -> tuple[tuple[jax.Device, ...], int]:
    """The devices of a topology, and the bytes of memory of each.

    Args:
      platform: "tpu" (needs requirements-tpu.txt) or "cuda" (H100; needs requirements-cuda-compile.txt).
      topology: such as "v5e:4x4", or for cuda the numbers of slices, hosts and cards, "1x1x1"; None: one chip.

    Raises:
      SystemExit: the platform's compiler is not installed, another process holds it, or there is no such topology.
    """
    topology = topology or TOPOLOGIES[platform]
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        if platform == "cuda":
            # Timing kernels needs a card, and so does asking CUPTI for its version.
            os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
            os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
            described = topologies.get_topology_desc(platform="cuda", target_config=_H100, topology=topology)
            return tuple(described.devices), _H100_MEMORY
        memory = _TPU_MEMORY.get(topology.split(":")[0])
        if memory is None:
            raise SystemExit(f"{topology}: the memory of such a chip is not known; known: {', '.join(_TPU_MEMORY)}")
        os.environ |= {name: os.environ.get(name, value) for name, value in _TPU_ENVIRONMENT.items()}
        one = {"chips_per_host_bounds": [1, 1, 1]} if topology.endswith(":1x1") else {}
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology, **one).devices), memory
    except Exception as error:  # jax raises whatever the plugin did
        raise SystemExit(explain(platform, topology, error)) from error


def explain(platform: str, topology: str, error: Exception) -> str:
    """What to do about an error of loading a platform's compiler."""
    text = str(error)
    if "lockfile" in text or "already in use" in text:
        return (
            "Another process holds libtpu: one at a time may load it. Wait for that process, or set "
            f"ALLOW_MULTIPLE_LIBTPU_LOAD=1, which is safe where no TPU is attached. libtpu said: {text}"
        )
    requirements = {"tpu": "requirements-tpu.txt", "cuda": "requirements-cuda-compile.txt"}[platform]
    return (
        f"{platform} {topology} cannot be compiled for. See that the topology exists, and that {requirements} is "
        f"installed in this environment. jax said: {text}"
    )
