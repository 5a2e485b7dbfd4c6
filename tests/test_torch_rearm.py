"""The PyTorch yardstick of the benchmarks is the same model: the original's numbers, and its own parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from benchmarks.pair_loops import cooccurrence_by_pair_loops, count_shared
from rearm_jax.graphs.relations import cooccurrence_graph, interaction_matrix
from tests.test_golden import LIMITS

torch = pytest.importorskip("torch", reason="the yardstick needs requirements-bench.txt")

from benchmarks import torch_rearm  # noqa: E402

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.npz"))


class Golden:
    """A golden file, and the yardstick in its starting state (dropout off)."""

    def __init__(self, path):
        with np.load(path, allow_pickle=False) as file:
            self.arrays = {name: file[name] for name in file.files}
        self.config = config = json.loads(str(self.arrays["config"]))
        features = {name: self.arrays[f"data/{name}_feat"] for name in ("image", "text")}
        interests = {"image": self.arrays["state/user_v_prefer"], "text": self.arrays["state/user_t_prefer"]}
        graphs = (
            scipy.sparse.csr_array(self.arrays[f"graph/{name}"]) for name in ("norm_adj", "user_user", "item_item")
        )
        self.model = torch_rearm.TorchREARM(
            num_users=len(self.arrays["state/user_id_embedding.weight"]),
            num_items=len(self.arrays["state/item_id_embedding.weight"]),
            item_features=features,
            user_interests=interests,
            graphs=torch_rearm.make_graphs(*graphs),
            embedding_dim=config["embedding_dim"],
            rank=config["rank"],
            num_layers=config["num_layer"],
            num_user_layers=config["n_uu_layers"],
            num_item_layers=config["n_ii_layers"],
            self_dropout=0.0,
            cross_dropout=0.0,
        )
        self.model.load_state_dict({name: torch.tensor(array) for name, array in self.section("state").items()})
        self.loss = {
            "contrastive_weight": float(config["cl_loss_weight"]),
            "temperature": float(config["cl_tmp"]),
            "orthogonal_weight": float(config["diff_loss_weight"]),
        }

    def section(self, prefix):
        found = {name: array for name, array in self.arrays.items() if name.startswith(f"{prefix}/")}
        return {name.removeprefix(f"{prefix}/"): array for name, array in found.items()}

    def batch(self, number):
        return tuple(torch.tensor(self.arrays[f"batch/{name}"][number]) for name in ("users", "positives", "negatives"))


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request):
    return Golden(request.param)


def assert_close(found, expected, limit):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def random_pairs(num_users, num_items, count, seed=0):
    cells = np.random.default_rng(seed).choice(num_users * num_items, count, replace=False)
    return np.stack(np.divmod(cells, num_items), axis=1).astype(np.int32)


def test_representation_equals_the_original(golden):
    with torch.no_grad():
        users, items, modal_users, modal_items = golden.model()
    assert_close(torch.cat([users, items]), golden.arrays["out/representation"], LIMITS["representation"])
    modal = torch.cat([torch.cat(modal_users, 1), torch.cat(modal_items, 1)])
    assert_close(modal, golden.arrays["out/modal_features"], LIMITS["modal_features"])


def test_gradients_equal_the_original(golden):
    """What counts as dead, and the floor of the attention scalars, as in tests/golden.py."""
    total, _ = torch_rearm.losses(golden.model(), golden.batch(0), **golden.loss)
    total.backward()
    expected = golden.section("grad")
    parameters = dict(golden.model.named_parameters())
    assert set(parameters) == set(expected)
    for name, parameter in parameters.items():
        if name.startswith("meta_net"):
            assert parameter.grad is None
            continue
        found, wanted = parameter.grad.numpy(), expected[name]
        if name.endswith("out_proj.bias") or not wanted.any():
            assert_close(found, wanted, LIMITS["dead_gradients"])
            continue
        if name.endswith("in_proj_bias"):
            assert_close(found[1:], wanted[1:], LIMITS["dead_gradients"])
            found, wanted = found[:1], wanted[:1]
        scale = max(np.abs(wanted).max(), 1e-4 if "_attn" in name else 0.0)
        assert_close(found / scale, wanted / scale, LIMITS["gradients"])


def test_five_steps_equal_the_original(golden):
    optimizer = torch_rearm.make_optimizer(golden.model, golden.config["lr"], float(golden.config["reg_weight"]))
    expected = golden.arrays["out/losses"]
    assert len(expected) == 5
    for number, losses in enumerate(expected):
        with torch.no_grad():
            total, parts = torch_rearm.losses(golden.model(), golden.batch(number), **golden.loss)
        found = np.array([total, parts["bpr"], parts["contrastive"], parts["orthogonal"]])
        assert_close(found, losses, LIMITS["losses"])
        stepped = torch_rearm.train_step(golden.model, optimizer, golden.batch(number), **golden.loss)
        assert abs(float(stepped) - losses[0]) <= LIMITS["losses"]
    with torch.no_grad():
        users, items, *_ = golden.model()
    expected = golden.arrays["out/representation_after"]
    assert_close(torch.cat([users, items]), expected, LIMITS["representation_after"])
    for name in ("meta_netu", "meta_neti"):  # frozen: not even decayed
        assert_close(getattr(golden.model, name).weight.detach(), golden.arrays[f"state/{name}.weight"], 0.0)


def test_dropout_acts_in_training_only(golden):
    attention = golden.model.mutual_i_attn1
    attention.dropout = 0.5
    with torch.no_grad():
        assert not torch.equal(golden.model()[1], golden.model()[1])
        golden.model.eval()
        assert torch.equal(golden.model()[1], golden.model()[1])


def test_other_than_two_modalities_are_refused():
    table = {"image": np.zeros((3, 2), np.float32)}
    with pytest.raises(ValueError, match="two modalities"):
        torch_rearm.TorchREARM(3, 3, table, table, None, 4, 2, 1, 1, 1, 0.0, 0.0)


@pytest.mark.parametrize("on_the_device", [False, True])
def test_an_epoch_has_every_interaction_once_and_uniform_negatives_outside_train(on_the_device):
    num_users, num_items = 4, 6
    pairs = random_pairs(num_users, num_items, 14)
    train = set(map(tuple, pairs.tolist()))
    if on_the_device:
        loader = torch_rearm.DeviceLoader(torch_rearm.Interactions(pairs, num_users, num_items), batch_size=4)
    else:
        loader = torch_rearm.make_loader(pairs, num_users, num_items, batch_size=4)
    drawn = np.zeros((num_users, num_items))
    orders = []
    for _ in range(300):
        batches = list(loader)
        assert [len(users) for users, _, _ in batches] == [4, 4, 4, 2]
        users, positives, negatives = (torch.cat(column) for column in zip(*batches, strict=True))
        orders.append(tuple(zip(users.tolist(), positives.tolist(), strict=True)))
        assert len(orders[-1]) == len(train)
        assert set(orders[-1]) == train
        np.add.at(drawn, (users.numpy(), negatives.numpy()), 1)
    assert len(set(orders)) > 290
    for user in range(num_users):
        free = [item for item in range(num_items) if (user, item) not in train]
        taken = [item for item in range(num_items) if (user, item) in train]
        assert not drawn[user, taken].any()
        expected = drawn[user].sum() / len(free)  # 300 draws or more: five standard deviations
        assert np.abs(drawn[user, free] - expected).max(initial=0) < 5 * expected**0.5


# Where another test has started jax, or torch its threads, the fork of a worker is warned of; the workers use neither.
@pytest.mark.filterwarnings("ignore:.*fork:RuntimeWarning", "ignore:.*fork:DeprecationWarning")
def test_workers_of_the_loader_draw_valid_and_different_negatives():
    pairs = random_pairs(10, 200, 100)
    train = set(map(tuple, pairs.tolist()))
    batches = list(torch_rearm.make_loader(pairs, 10, 200, batch_size=50, num_workers=2))
    negatives = [batch[2].tolist() for batch in batches]
    assert not train & {
        pair for users, _, items in batches for pair in zip(users.tolist(), items.tolist(), strict=True)
    }
    assert negatives[0] != negatives[1]


def test_a_user_with_every_item_is_refused():
    pairs = np.array([[0, 0], [0, 1], [1, 0]])
    with pytest.raises(ValueError, match="every item"):
        torch_rearm.make_loader(pairs, 2, 2, batch_size=2)


@pytest.mark.parametrize("block_size", [1, 7, 100])
def test_recall_equals_brute_force(block_size):
    num_users, num_items, k = 30, 40, 5
    pairs = random_pairs(num_users, num_items, 400)
    train, targets = pairs[:320], pairs[320:]
    targets = targets[targets[:, 0] != 3]  # a user without a target does not count
    rng = np.random.default_rng(1)
    users, items = rng.standard_normal((num_users, 8)), rng.standard_normal((num_items, 8))
    recalls = []
    for user in np.unique(targets[:, 0]):
        seen, wanted = (set(part[part[:, 0] == user, 1].tolist()) for part in (train, targets))
        ranked = [item for item in np.argsort(-(items @ users[user])).tolist() if item not in seen]
        recalls.append(len(wanted & set(ranked[:k])) / len(wanted))
    found = torch_rearm.evaluate(torch.tensor(users), torch.tensor(items), train, targets, k, block_size)
    assert found == pytest.approx(np.mean(recalls), abs=1e-12)


def test_pair_loops_build_the_same_cooccurrence_graphs():
    """Where two candidates tie for the k-th place their ids may differ; their weights may not."""
    num_users, num_items, k = 50, 30, 4
    rng = np.random.default_rng(0)
    skewed = rng.random((num_users, num_items)) < np.outer(rng.random(num_users), rng.random(num_items)) ** 1.5
    skewed[7] = False  # a user without neighbours takes the most popular ones
    pairs = np.argwhere(skewed)
    matrix = interaction_matrix(pairs, num_users, num_items)
    graphs = cooccurrence_by_pair_loops(pairs, num_users, num_items, k)
    for incidence, found in zip((matrix, matrix.T.tocsr()), graphs, strict=True):
        popularity = np.diff(incidence.indptr)
        expected = cooccurrence_graph(incidence, k, popularity).toarray()
        found = found.toarray()
        assert_close(np.sort(found, axis=1), np.sort(expected, axis=1), 1e-6)
        counts = (incidence @ incidence.T).toarray()
        np.fill_diagonal(counts, 0)
        ordered = -np.sort(-counts, axis=1)
        certain = (ordered[:, 0] > 0) & ((ordered[:, k - 1] > ordered[:, k]) | (ordered[:, k - 1] == 0))
        assert 5 < certain.sum() < len(certain)
        assert_close(found[certain], expected[certain], 1e-6)
        assert (counts[(found > 0) & (counts.sum(1) > 0)[:, None]] > 0).all()


def test_loops_over_all_pairs_count_what_the_product_counts():
    incidence = (np.random.default_rng(0).random((30, 20)) < 0.1).astype(int)
    counts = count_shared([set(np.flatnonzero(row).tolist()) for row in incidence])
    expected = np.triu(incidence @ incidence.T, k=1)
    assert counts == {tuple(pair.tolist()): expected[tuple(pair)] for pair in np.argwhere(expected)}
