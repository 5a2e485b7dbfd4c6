"""The numbers of the report, each against another way to get it."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rearm_jax.evaluation.popularity import quantile_groups
from rearm_jax.evaluation.scoring import dot_products
from rearm_jax.experiment import abstract_params, build_experiment
from rearm_jax.graphs.adjacency import Adjacency
from rearm_jax.recommender.contract import Representations
from rearm_jax.report.features import attention_scalars, embed, look_inside
from rearm_jax.report.measures import (
    graph_sides,
    nearest_items,
    ratio,
    recall_by_group,
    shown_items,
)
from rearm_jax.training.evaluator import Evaluator
from rearm_jax.training.placement import place
from tests.conftest import tiny_config

pytest.importorskip("sklearn", reason="the extra report is not installed: no scikit-learn")


@pytest.fixture(scope="module")
def experiment():
    return build_experiment(tiny_config())


def random_params(experiment):
    """Random everywhere: biases are not 0, so that each of them matters."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.5, leaf.shape).astype(np.float32), abstract_params(experiment))


@pytest.fixture(scope="module")
def params(experiment):
    return random_params(experiment)


@pytest.fixture(scope="module")
def outputs(experiment, params):
    """Representations, and what every part of the model put out."""
    kept = lambda module, method: method in ("__call__", "project_out")  # noqa: E731
    settings = {"capture_intermediates": kept, "mutable": ["intermediates"]}
    apply = jax.jit(lambda params, graphs: experiment.model.apply({"params": params}, graphs, **settings))
    return jax.device_get(apply(params, experiment.inputs))


def dense(adjacency: Adjacency) -> np.ndarray:
    return np.asarray(adjacency.matrix.todense())


def prelu(x, params) -> np.ndarray:
    return np.where(x >= 0, x, params["prelu"]["negative_slope"] * x)


def test_features_are_parts_of_the_representation(experiment, params, outputs):
    # Each part of a representation is PReLU(features) + E, with one E for all of them.
    inside = look_inside(experiment, params)
    for kinds, whole in ((inside.users, outputs[0].users), (inside.items, outputs[0].items)):
        assert list(kinds) == ["image", "text", "shared"]
        parts = np.split(np.asarray(whole), 3, axis=1)
        first, *others = (part - prelu(kind, params) for part, kind in zip(parts, kinds.values(), strict=True))
        for other in others:
            np.testing.assert_allclose(first, other, atol=2e-6)


def attention_inputs(experiment, params, calls):
    """(name, module, query, context) of each attention, by dense products and the layer norm's outputs."""
    nodes = np.concatenate(
        [params["item_id_table"], *(calls[f"item_{name}_projection"]["__call__"][0] for name in ("image", "text"))], 1
    )
    for _ in range(experiment.model.num_item_layers):
        nodes = dense(experiment.inputs["item_item"]) @ nodes
    nodes /= np.linalg.norm(nodes, axis=1, keepdims=True)
    _, image, text = np.split(nodes, 3, axis=1)
    image_after, text_after = (prelu(x, params) for x in calls["layer_norm"]["__call__"][:2])
    yield "image self", "image_self_attention", image, image
    yield "text self", "text_self_attention", text, text
    yield "image cross", "image_cross_attention", text_after, image_after
    yield "text cross", "text_cross_attention", image_after, text_after


def test_attention(experiment, params, outputs):
    calls = outputs[1]["intermediates"]
    blocks = look_inside(experiment, params).attention
    scalars = attention_scalars(params, ["image", "text"])
    expected = list(attention_inputs(experiment, params, calls))
    assert [block.name for block in blocks] == list(scalars) == [name for name, *_ in expected]
    for block, (name, module, query, context) in zip(blocks, expected, strict=True):
        # The three scalars say the same as the six parameters.
        coupling, tilt, gain = scalars[name]
        weights = scipy.special.softmax((coupling * query[:, :, None] + tilt) * context[:, None, :], axis=2)
        np.testing.assert_allclose(block.focus, np.exp(scipy.stats.entropy(weights, axis=2)).ravel(), rtol=1e-4)
        added = np.asarray(calls[module]["project_out"][0])
        constant = added - gain * np.einsum("nij,nj->ni", weights, context)
        np.testing.assert_allclose(constant, np.full_like(constant, constant.mean()), atol=1e-5)
        np.testing.assert_allclose(block.contribution, added.std(axis=1) / context.std(axis=1), rtol=1e-3)


def test_attention_of_one_and_of_three_modalities():
    for names in (("image",), ("image", "text", "audio")):
        experiment = build_experiment(
            tiny_config(
                data__modalities=names,
                data__synthetic__modalities=names,
            )
        )
        inside = look_inside(experiment, random_params(experiment))
        assert list(inside.items) == [*names, "shared"]
        assert len(inside.attention) == len(names) ** 2  # itself, and every other one asks
        assert all(1 <= block.focus.min() <= block.focus.max() <= 8 + 1e-4 for block in inside.attention)


def test_embedding_separates_what_is_apart_and_only_that():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 700, 6)).astype(np.float32)
    together = embed({"image": noise[0], "shared": noise[1]})
    assert abs(together.silhouette) < 0.05
    assert {kind: points.shape for kind, points in together.points.items()} == {"image": (500, 2), "shared": (500, 2)}

    centre = np.array([1, 0, 0, 0, 0, 0], np.float32)
    kinds = {"image": centre + 0.05 * noise[0, :40], "shared": 100 * (-centre + 0.05 * noise[1, :40])}
    apart = embed(kinds)
    assert apart.silhouette > 0.8
    middle = np.mean([points.mean(axis=0) for points in apart.points.values()], axis=0)
    sides = [(points - middle) @ (apart.points["image"].mean(axis=0) - middle) > 0 for points in apart.points.values()]
    assert sides[0].all()
    assert not sides[1].any()
    again = embed(kinds)
    np.testing.assert_array_equal(again.points["image"], apart.points["image"])


@given(hnp.arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 20)))
def test_quantile_groups(counts):
    groups = quantile_groups(counts)
    assert set(groups) == set(range(groups.max() + 1))
    assert groups.max() < 5
    order = np.argsort(counts, kind="stable")
    assert (np.diff(groups[order]) >= 0).all()
    assert ((np.diff(groups[order]) > 0) <= (np.diff(counts[order]) > 0)).all()  # equal counts, one group
    if len(set(counts)) == len(counts) >= 5:
        sizes = np.bincount(groups)
        assert sizes.max() - sizes.min() <= 1


def test_ratio_of_a_mean_is_the_normal_interval():
    values = np.random.default_rng(0).random(50)
    low, high = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    estimate = ratio(values, np.ones(50))
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.half_width == pytest.approx((high - low) / 2)


def test_ratio_agrees_with_the_bootstrap():
    rng = np.random.default_rng(1)
    pairs = rng.integers(0, 5, 400)
    hits = rng.binomial(pairs, rng.beta(2, 3, 400))  # users differ, so that their hits go together
    draws = rng.integers(0, 400, (4000, 400))
    low, high = np.percentile(hits[draws].sum(axis=1) / pairs[draws].sum(axis=1), (2.5, 97.5))
    estimate = ratio(hits, pairs)
    assert estimate.value == pytest.approx(hits.sum() / pairs.sum())
    assert estimate.half_width == pytest.approx((high - low) / 2, rel=0.05)


def test_ratio_of_a_sample_that_is_all_alike_has_no_interval():
    assert np.isnan(ratio(np.zeros(9), np.ones(9)).half_width)
    assert np.isnan(ratio(np.array([1.0]), np.array([3.0])).half_width)


def by_hand(dataset, scores, k):
    """(hits of each user among their test items, by item) with plain Python."""
    found = {}
    for user in np.unique(dataset.test[:, 0]):
        seen = set(dataset.train[dataset.train[:, 0] == user, 1])
        candidates = [item for item in range(dataset.num_items) if item not in seen]
        top = sorted(candidates, key=lambda item: (-scores[user, item], item))[:k]
        found[user] = {item: item in top for item in dataset.test[dataset.test[:, 0] == user, 1]}
    return found


def test_recall_by_group(experiment, params, outputs):
    dataset, representations = experiment.dataset, outputs[0]
    scores = dot_products(representations.users, representations.items)
    item_groups, user_groups = recall_by_group(dataset, scores, k=10, block_size=16)
    item_counts = np.bincount(dataset.train[:, 1], minlength=dataset.num_items)
    user_counts = np.bincount(dataset.train[:, 0], minlength=dataset.num_users)
    scores = {
        "model": np.asarray(representations.users) @ np.asarray(representations.items).T,
        "popular": np.tile(item_counts, (dataset.num_users, 1)),
    }
    for name, table in scores.items():
        hits = by_hand(dataset, table, 10)
        for group in item_groups:
            inside = [
                hit
                for of_user in hits.values()
                for item, hit in of_user.items()
                if group.lowest <= item_counts[item] <= group.highest
            ]
            assert group.num_pairs == len(inside)
            assert getattr(group, name).value == pytest.approx(np.mean(inside))
        for group in user_groups:
            inside = [
                np.mean(list(of_user.values()))
                for user, of_user in hits.items()
                if group.lowest <= user_counts[user] <= group.highest
            ]
            assert group.num_members == len(inside)
            assert getattr(group, name).value == pytest.approx(np.mean(inside))
    assert sum(group.num_pairs for group in item_groups) == sum(group.num_pairs for group in user_groups)
    assert sum(group.num_pairs for group in item_groups) == len(dataset.test)

    # All groups of users together are the run's recall.
    placement = place(experiment)
    evaluate = Evaluator(placement, placement.inputs())
    mean = np.average([g.model.value for g in user_groups], weights=[g.num_members for g in user_groups])
    assert mean == pytest.approx(evaluate(params, "test")["test/recall@10"])


def test_graph_sides(experiment):
    dataset = experiment.dataset
    users, items, *relations = graph_sides(dataset, experiment.inputs)
    interactions = np.zeros((dataset.num_users, dataset.num_items), int)
    interactions[tuple(dataset.train.T)] = 1
    np.testing.assert_array_equal(users.degrees, interactions.sum(axis=1))
    np.testing.assert_array_equal(items.degrees, interactions.sum(axis=0))
    assert items.num_isolated == (interactions.sum(axis=0) == 0).sum()
    assert users.num_entries == items.num_entries == interactions.sum()
    for side, adjacency in zip(
        relations, (experiment.inputs["user_user"], experiment.inputs["item_item"]), strict=True
    ):
        entries = dense(adjacency) != 0
        assert side.num_entries == entries.sum()
        np.fill_diagonal(entries, False)
        np.testing.assert_array_equal(side.degrees, entries.sum(axis=0))
        assert side.num_isolated == (~(entries | entries.T).any(axis=0)).sum()


def test_shown_items():
    counts = np.array([0, 5, 1, 9, 7, 7, 3, 2, 1, 0, 1])
    popular, rare = shown_items(counts)
    assert popular.tolist() == [3, 4, 5, 1]
    assert sorted(rare.tolist()) == [2, 7, 8, 10]  # the last four that occur
    popular, rare = shown_items(np.array([0, 2, 1]))
    assert popular.tolist() == [1, 2]
    assert rare.size == 0


def test_nearest_items(outputs):
    from sklearn.metrics.pairwise import cosine_similarity

    representations: Representations = outputs[0]
    vectors = np.asarray(representations.items)
    similarities = cosine_similarity(vectors)
    for found in nearest_items(np.array([0, 7]), vectors):
        others = sorted(set(range(len(vectors))) - {found.item}, key=lambda item: -similarities[found.item, item])
        assert found.neighbours.tolist() == others[:5]
        np.testing.assert_allclose(found.similarities, similarities[found.item, others[:5]], rtol=1e-4)
