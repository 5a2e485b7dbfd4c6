"""The parts of the PyTorch yardstick of LightGCN, FREEDOM and MGCN, by the names of benchmarks/jax_side.py."""

import functools
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import torch_baselines as yardstick
from benchmarks import torch_rearm
from benchmarks.problem import Problem, load_problem
from benchmarks.torch_side import DEVICE, evaluator, forward_backward, loader, random, ranking, sampling, waiting


def load_parts(folder: str, side: str) -> dict[str, Callable[[], Callable[[], object]]]:
    """Name of a part -> what makes it: a function of nothing that runs it once. `side` is "torch_baselines"."""
    problem = load_problem(Path(folder))
    makers = {
        "epoch": _epoch,
        "step": _step,
        "evaluation": _evaluation,
        "propagation user-item": _propagation,
        "losses": _losses,
        "optimiser": _optimiser,
        "sampling an epoch": sampling,
        "ranking": ranking,
    }
    if problem.config.model.name == "freedom":
        makers |= {"pruning an epoch": _pruning, "propagation item-item": _similar, "projections": _projections}
    if problem.config.model.name == "mgcn":
        makers |= {"losses": _mgcn_losses, "propagation item-item": _views, "projections": _gates}
    return {name: functools.partial(make, problem) for name, make in makers.items()}


def make_model(problem: Problem, device: str = DEVICE) -> yardstick.TorchLightGCN:
    """The model of the problem's config, on the device, in training."""
    dataset, settings = problem.dataset, problem.config.model
    sizes = dataset.num_users, dataset.num_items
    if settings.name == "lightgcn":
        model = yardstick.TorchLightGCN(
            *sizes, problem.graphs["user_item"], settings.embedding_dim, settings.num_layers, device
        )
    elif settings.name == "mgcn":
        model = yardstick.TorchMGCN(
            *sizes,
            problem.graphs["user_item"],
            {name: problem.graphs[f"item_item:{name}"] for name in dataset.features},
            dataset.features,
            settings.embedding_dim,
            settings.num_layers,
            problem.config.loss.temperature,
            device,
        )
    else:
        model = yardstick.TorchFREEDOM(
            *sizes,
            problem.graphs["user_item"],
            problem.graphs["item_item"],
            dataset.features,
            settings.embedding_dim,
            settings.num_layers,
            settings.num_item_layers,
            problem.config.graph.edge_dropout,
            device,
        )
        model.prune()
    return model.to(device).train()


def _weight(problem: Problem) -> float | tuple[float, float]:
    """As the model's `losses` takes it."""
    loss = problem.config.loss
    if problem.config.model.name == "mgcn":
        return loss.l2_weight, loss.contrastive_weight
    return loss.l2_weight if problem.config.model.name == "lightgcn" else loss.modality_weight


def _optimizer(problem: Problem, model: torch.nn.Module) -> torch.optim.Optimizer:
    return torch_rearm.make_optimizer(model, problem.config.learning_rate, problem.config.weight_decay)


def _batch(problem: Problem) -> torch_rearm.Batch:
    return tuple(column.to(DEVICE) for column in next(iter(loader(problem))))


def _step(problem: Problem) -> Callable[[], object]:
    model, batch, weight = make_model(problem), _batch(problem), _weight(problem)
    optimizer = _optimizer(problem, model)
    return waiting(lambda: yardstick.train_step(model, optimizer, batch, weight))


def _epoch(problem: Problem) -> Callable[[], object]:
    """A whole epoch: its edges, sampling, every step, and the validation metric."""
    model, weight = make_model(problem), _weight(problem)
    optimizer, batches, evaluate = _optimizer(problem, model), loader(problem), evaluator(problem, model)

    def epoch():
        if isinstance(model, yardstick.TorchFREEDOM):
            model.prune()
        for batch in batches:
            yardstick.train_step(model, optimizer, tuple(column.to(DEVICE) for column in batch), weight)
        evaluate()

    return waiting(epoch)


def _evaluation(problem: Problem) -> Callable[[], object]:
    return waiting(evaluator(problem, make_model(problem)))


def _propagation(problem: Problem) -> Callable[[], object]:
    """Over the edges that a step has."""
    model, d = make_model(problem), problem.config.model.embedding_dim
    graph = model.kept if isinstance(model, yardstick.TorchFREEDOM) else model.user_item
    nodes = random(model.num_users, d), random(model.num_items, d)
    return forward_backward(lambda users, items: model.propagate(graph, users, items), *nodes)


def _similar(problem: Problem) -> Callable[[], object]:
    model = make_model(problem)
    return forward_backward(model.similar, random(model.num_items, problem.config.model.embedding_dim))


def _views(problem: Problem) -> Callable[[], object]:
    """Of purified features of all modalities, over their graphs and on to the users."""
    model, d = make_model(problem), problem.config.model.embedding_dim
    tables = [random(model.num_items, d) for _ in problem.dataset.features]
    return forward_backward(lambda *tables: model.views(list(tables)), *tables)


def _gates(problem: Problem) -> Callable[[], object]:
    """The projected features of all items and what the gates are made of, with the gradients of the tables."""
    model = make_model(problem)
    run = forward_backward(lambda: tuple(model.project().values()))

    def part():
        model.zero_grad()
        run()

    return part


def _mgcn_losses(problem: Problem) -> Callable[[], object]:
    """From the representation, side and shared view of users, positives and negatives to the gradients of all."""
    temperature, weights = problem.config.loss.temperature, _weight(problem)
    rows = problem.config.batch_size, problem.config.model.embedding_dim

    def run(*flat):
        fused = [flat[:3], flat[3:6], flat[6:]]
        return sum(yardstick.mgcn_losses(fused, temperature, weights).values())

    return forward_backward(run, *(random(*rows) for _ in range(7)))


def _projections(problem: Problem) -> Callable[[], object]:
    """Of the positives and negatives of a batch, with the gradients of the tables."""
    model, (_, positives, negatives) = make_model(problem), _batch(problem)
    run = forward_backward(lambda: model.project(torch.cat([positives, negatives])))

    def part():
        model.zero_grad()
        run()

    return part


def _losses(problem: Problem) -> Callable[[], object]:
    """From representations, and what else the losses read, to the gradients of all of these."""
    config, dataset, batch = problem.config, problem.dataset, _batch(problem)
    d, weight = config.model.embedding_dim, _weight(problem)
    tables = random(dataset.num_users, d), random(dataset.num_items, d)
    if config.model.name == "lightgcn":

        def run(users, items, user_ids, item_ids):
            rows = user_ids[batch[0]], item_ids[batch[1]], item_ids[batch[2]]
            l2 = sum(row.square().sum() for row in rows) / 2 / len(rows[0])
            return yardstick.bpr(users, items, batch) + weight * l2

        return forward_backward(run, *tables, random(dataset.num_users, d), random(dataset.num_items, d))

    def run(users, items, *projected):
        modalities = yardstick.modality_loss(users[batch[0]], list(projected))
        return yardstick.bpr(users, items, batch) + weight * modalities

    return forward_backward(run, *tables, *(random(2 * len(batch[0]), d) for _ in dataset.features))


def _optimiser(problem: Problem) -> Callable[[], object]:
    model = make_model(problem)
    optimizer = _optimizer(problem, model)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e-3)
    return waiting(optimizer.step)


def _pruning(problem: Problem) -> Callable[[], object]:
    return waiting(make_model(problem).prune)
