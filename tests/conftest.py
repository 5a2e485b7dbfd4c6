"""What the tests share: a compilation cache for the session, and a config small enough to train in a test."""

import gc
import os
import re
import shutil
import signal
import tempfile
from importlib.metadata import version

import fsspec
import pytest
from etils.epath import backend
from ml_collections import ConfigDict

_NO_EMITTERS = "--xla_cpu_use_fusion_emitters=false"


def pytest_configure(config):
    # Tracing makes millions of objects and hardly a cycle of them: looking for those takes a tenth of the time.
    gc.set_threshold(50_000, 20, 50)
    # A shell that starts a command behind its back (&, nohup) has it ignore Ctrl-C, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # The same programs are compiled again and again, in subprocesses and by the workers of pytest-xdist, too: all use
    # one cache. This runs before jax is imported and before there are workers.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="rearm_jax_tests_")
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    # On data of 60 users, optimising a program takes longer than all its runs. .ci/run and `python -m tests.faults` try
    # exact numbers with programs as users have them, too.
    os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # The emitters of fusions take two thirds of what is left; later releases do not know the flag, and end.
    flags = os.environ.get("XLA_FLAGS", "")
    if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and version("jaxlib").startswith("0.10."):
        os.environ["XLA_FLAGS"] = flags if _NO_EMITTERS in flags else f"{flags} {_NO_EMITTERS}"


def with_devices(count: int) -> dict[str, str]:
    """The environment of a process that has so many CPU devices, which wait long for each other on busy cores."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    flags += " --xla_cpu_collective_call_terminate_timeout_seconds=600"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """A compiled program holds memory mappings, of which Linux gives a process 65,530: in the end jax would crash."""
    yield
    import jax

    jax.clear_caches()


@pytest.fixture
def bucket(monkeypatch):
    """gs://bucket, a file system in memory which, as Google's does, takes appending for overwriting."""

    class Bucket(fsspec.get_filesystem_class("memory")):
        protocol = "gs"
        store, pseudo_dirs = {}, [""]

        def _open(self, path, mode="rb", **settings):
            return super()._open(path, mode.replace("a", "w"), **settings)

    files = Bucket()
    monkeypatch.setattr(type(backend.fsspec_backend), "fs", lambda self, path: files)
    files.makedirs("gs://bucket")
    return files


@pytest.fixture
def built_graphs(caplog):
    """A function that gives the names of the graphs that were built since it was last called, in order."""
    caplog.set_level("INFO", logger="absl")

    def names() -> list[str]:
        said = [re.match(r"graph (.*): \d+ nodes", record.getMessage()) for record in caplog.records]
        caplog.clear()
        return [match[1] for match in said if match]

    return names


# The demo, shrunk.
TINY = {
    "batch_size": 64,
    "num_epochs": 3,
    "patience": 1000,
    "learning_rate": 1e-3,
    "data.source": "synthetic",
    "data.synthetic.num_users": 60,
    "data.synthetic.num_items": 40,
    "data.synthetic.interactions_per_user": 8,
    "data.synthetic.feature_width": 6,
    "graph.user_knn_k": 5,
    "graph.item_knn_k": 5,
    "graph.cache_dir": "",
    "model.embedding_dim": 8,
    "model.num_layers": 2,
    "evaluation.ks": (5, 10),
    "evaluation.metric": "recall@10",
    "evaluation.block_size": 16,
    "log.progress": False,
    "log.tensorboard": False,
}


def tiny_config(**changes) -> ConfigDict:
    """60 users, 40 items, 353 train interactions, 6 steps an epoch; of TINY what the model declares.

    Args:
      changes: other values; dots in names become `__`. `model__name` is REARM if not given.
    """
    from rearm_jax import default  # imports jax, which reads the environment once

    changes = {name.replace("__", "."): value for name, value in changes.items()}
    model = changes.get("model.name", "rearm")
    config = default.get_config(model).lock()
    config.update_from_flattened_dict({k: v for k, v in TINY.items() if k in default.declared(model)} | changes)
    return config
