"""The parts of the PyTorch yardstick, by the names of benchmarks/jax_side.py; the compiled side has the step alone."""

import functools
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import torch_rearm as yardstick
from benchmarks.problem import Problem, load_problem

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
_STEPS_A_CALL = 20  # on a GPU, which then computes a step while the next one is given to it


def load_parts(folder: str, side: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Name of a part -> what makes it: a function of nothing that runs it once. `side`: "torch" or "torch-compile"."""
    problem = load_problem(Path(folder))
    if side == "torch-compile":
        return {"step": lambda: _step(problem, torch.compile(yardstick.train_step))}
    makers = {
        "epoch": _epoch,
        "step": lambda problem: _step(problem, yardstick.train_step),
        "evaluation": _evaluation,
        "wide features": _wide_features,
        "propagation user-user": lambda problem: _homography(problem, "user"),
        "propagation item-item": lambda problem: _homography(problem, "item"),
        "propagation user-item": _heterography,
        "attention": _attention,
        "meta-network": _meta_network,
        "losses": _losses,
        "optimiser": _optimiser,
        "sampling an epoch": sampling,
        "ranking": ranking,
    }
    return {name: functools.partial(make, problem) for name, make in makers.items()}


def _model(problem: Problem) -> yardstick.TorchREARM:
    dataset, settings = problem.dataset, problem.config.model
    names = (
        "embedding_dim",
        "rank",
        "num_layers",
        "num_user_layers",
        "num_item_layers",
        "self_dropout",
        "cross_dropout",
    )
    model = yardstick.TorchREARM(
        dataset.num_users,
        dataset.num_items,
        dataset.features,
        problem.interests,
        yardstick.make_graphs(**problem.graphs, device=DEVICE),
        **{name: settings[name] for name in names},
    )
    return model.to(DEVICE).train()


def loader(problem: Problem):
    """The batches of an epoch, drawn anew at each iteration."""
    dataset, batch_size = problem.dataset, problem.config.batch_size
    if DEVICE == "cpu":
        return yardstick.make_loader(dataset.train, dataset.num_users, dataset.num_items, batch_size)
    interactions = yardstick.Interactions(dataset.train, dataset.num_users, dataset.num_items, DEVICE)
    return yardstick.DeviceLoader(interactions, batch_size)


def _batch(problem: Problem) -> yardstick.Batch:
    return tuple(column.to(DEVICE) for column in next(iter(loader(problem))))


def _trainer(problem: Problem, train_step: Callable) -> tuple[yardstick.TorchREARM, Callable]:
    config, model = problem.config, _model(problem)
    optimizer = yardstick.make_optimizer(model, config.learning_rate, config.weight_decay)
    weights = (config.loss.contrastive_weight, config.loss.temperature, config.loss.orthogonal_weight)

    def step(batch):
        train_step(model, optimizer, tuple(column.to(DEVICE) for column in batch), *weights)

    return model, step


def waiting(run: Callable[[], object]) -> Callable[[], object]:
    """`run`, until the device is done."""

    def part():
        run()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return part


def _step(problem: Problem, train_step: Callable) -> Callable[[], object]:
    _, step = _trainer(problem, train_step)
    batch = _batch(problem)
    count = 1 if DEVICE == "cpu" else _STEPS_A_CALL

    def steps():
        for _ in range(count):
            step(batch)

    part = waiting(steps)
    part.count = count
    return part


def _epoch(problem: Problem) -> Callable[[], object]:
    """A whole epoch: sampling, every step, and the validation metric."""
    model, step = _trainer(problem, yardstick.train_step)
    batches, evaluate = loader(problem), evaluator(problem, model)

    def epoch():
        for batch in batches:
            step(batch)
        evaluate()

    return waiting(epoch)


def evaluator(problem: Problem, model: torch.nn.Module) -> Callable[[], float]:
    """Recall@20 on validation of what the model calls users and items."""
    dataset, block_size = problem.dataset, problem.config.evaluation.block_size

    def evaluate():
        model.eval()
        with torch.inference_mode():
            users, items, *_ = model()
            recall = yardstick.evaluate(users, items, dataset.train, dataset.valid, 20, block_size)
        model.train()
        return recall

    return evaluate


def _evaluation(problem: Problem) -> Callable[[], object]:
    return waiting(evaluator(problem, _model(problem)))


def ranking(problem: Problem) -> Callable[[], object]:
    """All users of the test split against all items, from representations that are already there."""
    dataset, config = problem.dataset, problem.config
    users, items = (random(n, problem.width) for n in (dataset.num_users, dataset.num_items))
    block_size = config.evaluation.block_size
    return waiting(lambda: yardstick.evaluate(users, items, dataset.train, dataset.test, 20, block_size))


def forward_backward(function: Callable, *inputs: torch.Tensor) -> Callable[[], object]:
    """Runs `function` of the inputs, and its gradient for a random incoming one."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    cotangents = [torch.randn_like(out) for out in _flat(function(*inputs))]

    def run():
        torch.autograd.backward(_flat(function(*inputs)), cotangents)
        for x in inputs:
            x.grad = None

    return waiting(run)


def _flat(out) -> list[torch.Tensor]:
    return [out] if isinstance(out, torch.Tensor) else list(itertools.chain.from_iterable(map(_flat, out)))


def random(*shape: int) -> torch.Tensor:
    """Small normal numbers on the device."""
    return 0.1 * torch.randn(shape, device=DEVICE)


def _wide_features(problem: Problem) -> Callable[[], object]:
    model = _model(problem)
    run = forward_backward(model.project)

    def part():
        model.zero_grad()
        run()

    return part


def _homography(problem: Problem, side: str) -> Callable[[], object]:
    """One of the two graphs of `TorchREARM.homography`, without the other and without the normalisation."""
    graphs, model = yardstick.make_graphs(**problem.graphs, device=DEVICE), problem.config.model
    graph, transposed = getattr(graphs, f"{side}_{side}"), getattr(graphs, f"{side}_{side}_transposed")

    def propagate(x):
        for _ in range(model[f"num_{side}_layers"]):
            x = yardstick.SparseProduct.apply(graph, transposed, x)
        return x

    return forward_backward(propagate, random(graph.shape[0], 3 * model.embedding_dim))


def _heterography(problem: Problem) -> Callable[[], object]:
    model, dataset = _model(problem), problem.dataset
    width = 3 * problem.config.model.embedding_dim
    return forward_backward(model.heterography, random(dataset.num_users, width), random(dataset.num_items, width))


def _attention(problem: Problem) -> Callable[[], object]:
    shape = problem.dataset.num_items, problem.config.model.embedding_dim
    return forward_backward(_model(problem).item_attention, random(*shape), random(*shape))


def _meta_network(problem: Problem) -> Callable[[], object]:
    """Users' and items'."""
    model, d = _model(problem), problem.config.model.embedding_dim
    networks = [(model.meta_netu, model.mlp_u1, model.mlp_u2), (model.meta_neti, model.mlp_i1, model.mlp_i2)]
    inputs = [x for n in (model.num_users, model.num_items) for x in (random(n, 2 * d), random(n, d))]

    def run(*inputs):
        return [model.meta(*inputs[2 * side : 2 * side + 2], *network) for side, network in enumerate(networks)]

    return forward_backward(run, *inputs)


def _losses(problem: Problem) -> Callable[[], object]:
    config, dataset, d = problem.config.loss, problem.dataset, problem.config.model.embedding_dim
    batch, weights = _batch(problem), (config.contrastive_weight, config.temperature, config.orthogonal_weight)
    sizes = dataset.num_users, dataset.num_items
    inputs = [random(n, width) for width in (3 * d, d, d) for n in sizes]

    def run(users, items, user_first, item_first, user_second, item_second):
        out = users, items, (user_first, user_second), (item_first, item_second)
        return yardstick.losses(out, batch, *weights)[0]

    return forward_backward(run, *inputs)


def _optimiser(problem: Problem) -> Callable[[], object]:
    model = _model(problem)
    optimizer = yardstick.make_optimizer(model, problem.config.learning_rate, problem.config.weight_decay)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return waiting(optimizer.step)


def sampling(problem: Problem) -> Callable[[], object]:
    """The order of an epoch and the negatives of all its batches."""
    batches = loader(problem)
    return waiting(lambda: [None for _ in batches])
