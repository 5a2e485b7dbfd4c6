"""Off the CPU products ask for float32, and propagation sorts nothing: from the programs lowered for those platforms.

Lowering for a platform needs no such device.
"""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from rearm_jax import default, evaluate, train
from rearm_jax.experiment import build_experiment, in_precision, init_params
from rearm_jax.graphs.adjacency import make_adjacency, propagate
from rearm_jax.graphs.rows_in_order import product_in_order
from rearm_jax.inference.export import export_run
from rearm_jax.inference.new_items import represent_new_items
from rearm_jax.inference.recommend import recommend
from rearm_jax.inference.trained import load_trained
from rearm_jax.parallel.rows import ALONE
from rearm_jax.recommender.objectives import contrastive_share
from rearm_jax.report.visualize import write_report
from rearm_jax.training import placement
from rearm_jax.training.epoch import compile_steps
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.sampling import make_sampler
from rearm_jax.training.step import TrainState, draw_order
from tests.conftest import tiny_config

PLATFORMS = ("tpu", "cuda", "cpu")
LEARNED = ("rearm", "lightgcn", "bpr", "vbpr", "bm3", "freedom", "mgcn", "smore")


@functools.cache
def experiment_of(model, precision="highest"):
    losses = {f"loss.{name}_weight": 0.1 for name in ("contrastive", "orthogonal", "l2")}
    losses = {name.replace(".", "__"): weight for name, weight in losses.items() if name in default.declared(model)}
    return build_experiment(tiny_config(model__name=model, matmul_precision=precision, **losses))


def programs_of(experiment, monkeypatch):
    """The functions that a run gives to the devices, and what they are called with."""
    given = []

    def keep(precision, fn, static, devices, donate):
        given.append(in_precision(precision, functools.partial(fn, *static)))
        return given[-1]

    monkeypatch.setattr(placement, "_data_parallel", keep)
    placed = placement.place(experiment)
    compile_steps(placed, experiment.inputs)
    evaluate = Evaluator(placed, experiment.inputs)
    params = init_params(experiment)
    state = TrainState(params, experiment.tx.init(params), jnp.int32(0), jax.random.key_data(jax.random.key(0)))
    order = draw_order(len(experiment.dataset.train), experiment.config.batch_size, ALONE, state)
    sampler = make_sampler(experiment.dataset, "strict")
    steps, _, rank = given
    _, rates = experiment.split_rates()
    blocks = evaluate._splits["valid"][0]
    return {
        "steps": (steps, (state, dict(experiment.inputs), sampler, order, jnp.int32(1), rates)),
        "rank": (rank, (params, dict(experiment.inputs), blocks, rates["model"])),
    }


def products(text):
    """The lines of a StableHLO program that multiply matrices of float32."""
    lines = [line for line in text.splitlines() if re.search(r"stablehlo\.(dot_general|dot|convolution)\b", line)]
    return [line for line in lines if "f32>" in line]


def without_precision(found):
    return [line for line in found if "precision = [HIGHEST, HIGHEST]" not in line]


@pytest.fixture
def lowered(monkeypatch):
    """The texts, for all platforms, of the programs jitted by this package that are called from now on."""
    texts, jit = [], jax.jit

    def recorded(program):
        def call(*args, **named):
            if not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves((args, named))):
                traced = program.trace(*args, **named)
                texts.extend(traced.lower(lowering_platforms=(platform,)).as_text() for platform in PLATFORMS)
            return program(*args, **named)

        call.trace, call.lower, call.eval_shape = program.trace, program.lower, program.eval_shape
        return functools.wraps(program)(call)

    for module in [module for name, module in sys.modules.items() if name.startswith("rearm_jax.")]:
        for name, value in vars(module).items():
            if isinstance(value, type(jit(len))):
                monkeypatch.setattr(module, name, recorded(value))
    monkeypatch.setattr(jax, "jit", lambda *args, **options: recorded(jit(*args, **options)))
    return texts


def test_whatever_reads_a_run_asks_for_float32(tmp_path, lowered):
    """Inference, lists, new items, report and export of a run."""
    config = tiny_config(num_epochs=1)
    train(config, tmp_path / "run", progress=False)
    trained = load_trained(str(tmp_path / "run"))
    new = {name: table[:3] for name, table in trained.experiment.dataset.features.items()}
    uses = {
        "evaluate": lambda: evaluate(tmp_path / "run"),
        "representations": lambda: trained.representations,
        "recommend": lambda: list(recommend(trained, k=5)[1]),
        "new items": lambda: represent_new_items(trained, new),
        "report": lambda: write_report(trained, tmp_path / "report.html"),
    }
    for name, use in uses.items():
        lowered.clear()
        use()
        found = [line for text in lowered for line in products(text)]
        assert found, f"{name}: without products it proves nothing"
        assert without_precision(found) == [], name
    export_run(trained, tmp_path / "export")
    exported = jax.export.deserialize(bytearray((tmp_path / "export" / "score.stablehlo").read_bytes()))
    found = products(exported.mlir_module())
    assert found
    assert without_precision(found) == []


@pytest.mark.parametrize(("model", "parallel"), [("mgcn", "data"), ("rearm", "row")])
def test_what_training_and_evaluation_compile_asks_for_float32(tmp_path, request, model, parallel):
    """Whatever jax lowers for this device from the start of a run to its end, by its own account."""
    jax.config.update("jax_dump_ir_to", str(tmp_path / "programs"))
    request.addfinalizer(lambda: jax.config.update("jax_dump_ir_to", ""))
    train(tiny_config(model__name=model, parallel=parallel, num_epochs=1), tmp_path / "run", progress=False)
    evaluate(tmp_path / "run")
    found = {path.name: products(path.read_text()) for path in (tmp_path / "programs").iterdir()}
    assert sum(map(bool, found.values())) >= 2, "steps and lists have products"
    assert [line for lines in found.values() for line in without_precision(lines)] == []


@pytest.mark.parametrize("model", LEARNED)
def test_every_product_asks_for_float32(model, monkeypatch):
    for name, (fn, args) in programs_of(experiment_of(model), monkeypatch).items():
        traced = jax.jit(lambda *args, fn=fn: fn(ALONE, *args)).trace(*args)
        for platform in PLATFORMS:
            found = products(traced.lower(lowering_platforms=(platform,)).as_text())
            assert found or (model in ("lightgcn", "bpr") and name == "steps"), "without products it proves nothing"
            assert without_precision(found) == []


def test_a_lower_precision_is_seen_in_the_program(monkeypatch):
    """The test above can fail."""
    fn, args = programs_of(experiment_of("rearm", "default"), monkeypatch)["steps"]
    found = products(jax.jit(lambda *args: fn(ALONE, *args)).trace(*args).lower(lowering_platforms=("tpu",)).as_text())
    assert any("HIGHEST" not in line for line in found)


def test_on_a_cpu_no_bit_depends_on_the_precision():
    random = np.random.default_rng(0)
    x, w = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in ((300, 70), (70, 130)))
    results = []
    for precision in ("default", "highest"):
        config = experiment_of("lightgcn", precision).config
        step = jax.jit(in_precision(config.matmul_precision, jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w) ** 2))))
        results.append(np.asarray(step(w)))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_propagation_is_a_sum_over_sorted_rows(platform, symmetric):
    matrix = scipy.sparse.random_array((50, 50), density=0.1, rng=np.random.default_rng(1), dtype=np.float32).tocsr()
    matrix = scipy.sparse.csr_array(matrix + matrix.T) if symmetric else matrix
    matrix.sort_indices()
    adjacency = make_adjacency(matrix, ("user",), symmetric=symmetric)

    def loss(x, adjacency):
        return sum(jnp.sum(layer**2) for layer in propagate(adjacency, x, 2))

    text = jax.jit(jax.grad(loss)).trace(jnp.ones((50, 4)), adjacency).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.sort" not in text
    scatters = re.findall(r'"stablehlo\.scatter".*?indices_are_sorted = (\w+)', text, re.DOTALL)
    assert scatters
    assert set(scatters) == {"true"}
    # Without a barrier a GPU keeps an array of (nnz, c).
    assert text.count("stablehlo.optimization_barrier") == (len(scatters) if platform == "cuda" else 0)


@pytest.mark.skipif(jax.__version_info__ >= (0, 11), reason="jax 0.11 lowers Triton's kernels beside a GPU alone")
@pytest.mark.parametrize("flags", ["--xla_gpu_deterministic_ops=true", "--xla_dump_to=x --xla_gpu_deterministic_ops"])
def test_on_a_gpu_that_must_be_deterministic_propagation_has_no_scatter(flags, monkeypatch):
    matrix = scipy.sparse.random_array((50, 50), density=0.1, rng=np.random.default_rng(1), dtype=np.float32).tocsr()
    adjacency = make_adjacency(matrix, ("user",))

    def lowered(platform):
        gradient = jax.grad(lambda x, adjacency: sum(jnp.sum(layer**2) for layer in propagate(adjacency, x, 2)))
        return jax.jit(gradient).trace(jnp.ones((50, 4)), adjacency).lower(lowering_platforms=(platform,)).as_text()

    monkeypatch.setenv("XLA_FLAGS", flags)
    assert "stablehlo.scatter" not in lowered("cuda")
    assert lowered("cuda").count("xla.gpu.triton") >= 2
    assert "stablehlo.scatter" in lowered("tpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=false")
    assert "stablehlo.scatter" in lowered("cuda")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_product_in_order_is_the_product(dtype):
    random = np.random.default_rng(3)
    matrix = scipy.sparse.random_array((30, 40), density=0.3, rng=random, dtype=np.float32).tolil()
    matrix[4], matrix[7] = 0, random.normal(size=40)  # a row without entries, and one with more than a program's
    matrix = matrix.tocsr()
    x = jnp.asarray(random.normal(size=(40, 70)), dtype)
    parts = matrix.data, matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)
    found = product_in_order(*(jnp.asarray(part) for part in parts), x, interpret=True)
    np.testing.assert_allclose(found, matrix @ np.asarray(x, np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_the_contrastive_loss_sorts_nothing(platform):
    def loss(first, second, ids, mask):
        return contrastive_share(first, second, ids, mask, 0.2, ALONE)

    views = jnp.ones((40, 8)), jnp.ones((40, 8))
    traced = jax.jit(jax.grad(loss, argnums=(0, 1))).trace(*views, jnp.arange(40), jnp.ones(40, bool))
    assert "stablehlo.sort" not in traced.lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.sort" in traced.lower(lowering_platforms=("cpu",)).as_text(), "else this test proves nothing"


def test_the_sum_over_sorted_rows_equals_the_kernel_of_the_cpu():
    from rearm_jax.graphs import adjacency as module

    random = np.random.default_rng(2)
    matrix = scipy.sparse.random_array((40, 40), density=0.2, rng=random, dtype=np.float32).tocsr()
    adjacency = make_adjacency(matrix, ("user",))
    x = jnp.asarray(random.normal(size=(40, 3)), jnp.float32)
    found = module.sum_of_entries(adjacency.matrix.data, adjacency.matrix.indices, x, 40)
    np.testing.assert_allclose(found, matrix @ np.asarray(x), rtol=1e-5, atol=1e-6)
