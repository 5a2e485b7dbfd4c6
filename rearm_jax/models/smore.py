"""SMORE (Ong & Khong, WSDM 2025): MGCN with filters along the width of the features, and a view of their fusion.

With the symbols of MGCN (mgcn.py), F the orthonormal real Fourier transform of a row's d numbers, c complex filters
that all items share, and the products by element:

    X~_m = F^-1(F(W_m(X_m)) * c_m),   X~_f = F^-1(c_f * product over m of F(W_m(X_m)))
    S_f = for each pair of items the largest of its entries in the S_m
    V_x = [R S_x P_x ; S_x P_x] with P_x = E_I * sigmoid(G_x(X~_x)), of each modality m and of the fusion f
    B_m = softmax over the d coordinates of W'_m tanh(W''_m V_f + b)
    side = (sigmoid(Q_f(C)) * V_f + sum over m of sigmoid(Q_m(C)) * B_m * V_m) / (M + 1)
    Z = C + side,   score and loss as MGCN's

In training the gates sigmoid(Q(C)) are dropped out. The softmax over coordinates makes the modalities' views about d
times as short as the fusion's; `model.preference = "scaled"` multiplies it by d. The published code has two modalities,
with numbers of neighbours of their own; what it trains, and protocol "reference", are as for MGCN.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from rearm_jax.data.dataset import Dataset
from rearm_jax.graphs.adjacency import make_adjacency, user_item_adjacency
from rearm_jax.graphs.relations import cosine_graph, largest
from rearm_jax.graphs.semantic import semantic_graph
from rearm_jax.parallel.rows import ALL, Nodes
from rearm_jax.recommender.contract import Inputs, Representations
from rearm_jax.recommender.layers import drop_rows, torch_linear
from rearm_jax.recommender.search_space import Choice
from rearm_jax.recommender.side_views import SIDE_VIEWS, SIDE_VIEWS_SPACE, SideViews
from rearm_jax.settings import FRACTION, JointRule, Rule, Setting, choice

_NEIGHBOURS = Rule(
    int, "a tuple of integers from 1 up, such as (40, 15), or ()", lambda ks: all(k >= 1 for k in ks), many=True
)
_FUSION = "fusion"


class Model(SideViews):
    """The model; any number of modalities."""

    title = "SMORE"
    settings = {
        **SIDE_VIEWS,
        "graph.item_knn_ks": Setting(
            (), _NEIGHBOURS, "of each modality, in the place of graph.item_knn_k; (): the same for all", "items"
        ),
        "model.num_layers": SIDE_VIEWS["model.num_layers"]._replace(default=3),
        "model.dropout": Setting(0.0, FRACTION, "of the gates of content, in training"),
        "model.preference": Setting(
            "softmax",
            choice("softmax", "scaled"),
            '"softmax": over the coordinates, as published; "scaled": times their number',
        ),
    }
    search_space = {
        **SIDE_VIEWS_SPACE,
        "model.dropout": Choice((0.0, 0.1, 0.3)),
        "model.preference": Choice(("softmax", "scaled")),
    }
    joint_rules = (
        JointRule(
            "graph.item_knn_ks",
            "data.modalities",
            "one number for each modality, or ()",
            lambda ks, names: len(ks) in (0, len(names)),
        ),
        JointRule(
            "data.modalities",
            "model.name",
            f'without "{_FUSION}", which SMORE calls a view of its own',
            lambda names, _: _FUSION not in names,
        ),
    )

    rates = {**SideViews.rates, "dropout": np.float32}

    dropout: float
    preference: str

    @classmethod
    def relations(cls, dataset: Dataset, config: ConfigDict) -> Inputs:
        """ "user_item", "item_item:MODALITY", "item_item:fusion", and the features where they stay as they are.

        Raises:
          ConfigError: the kNN graphs need faiss, which is not installed.
        """
        inputs: dict[str, Any] = {"user_item": user_item_adjacency(dataset.train, dataset.num_users, dataset.num_items)}
        ks = config.graph.item_knn_ks or (config.graph.item_knn_k,) * len(dataset.features)
        nearest = {
            name: cosine_graph(semantic_graph(dataset, name, k, config.graph))
            for name, k in zip(dataset.features, ks, strict=True)
        }
        nearest[_FUSION] = largest(list(nearest.values()))
        inputs |= {f"item_item:{name}": make_adjacency(graph, ("item",)) for name, graph in nearest.items()}
        return inputs | cls.frozen_features(dataset, config)

    @nn.compact
    def __call__(self, inputs: Inputs, users: Nodes = ALL, items: Nodes = ALL, train: bool = False) -> Representations:
        graphs: Any = inputs
        d, names = self.embedding_dim, [name for name, _ in self.feature_widths]
        shared, item_ids = self.shared_view(graphs["user_item"])

        spectra = []
        for name, width in self.feature_widths:
            projection = torch_linear(d, self.dtype, f"{name}_projection", fan_in=width)
            projected = projection(self.feature_table(name, width, inputs, items)).astype(jnp.float32)
            spectra.append(jnp.fft.rfft(projected, axis=1, norm="ortho"))
        fused = spectra[0]
        for spectrum in spectra[1:]:
            fused *= spectrum

        purified, views = [], [*names, _FUSION]
        for name, spectrum in zip(views, [*spectra, fused], strict=True):
            real, imaginary = self.param(f"{name}_filter", nn.initializers.normal(1.0), (2, d // 2 + 1))
            features = jnp.fft.irfft(spectrum * jax.lax.complex(real, imaginary), n=d, axis=1, norm="ortho")
            gate = torch_linear(d, self.dtype, f"{name}_gate", fan_in=d)
            purified.append(item_ids * nn.sigmoid(gate(features).astype(jnp.float32)))
        tables = self.content_views(graphs["user_item"], purified, [graphs[f"item_item:{name}"] for name in views])

        queries = [torch_linear(d, self.dtype, f"{name}_query", fan_in=d) for name in names]
        weights = [torch_linear(d, self.dtype, f"{name}_query_weights", fan_in=d, use_bias=False) for name in names]
        preferences = [torch_linear(d, self.dtype, f"{name}_preference", fan_in=d) for name in views]
        scale = d if self.preference == "scaled" else 1

        def fuse(nodes: Nodes, shared: jax.Array, *views: jax.Array) -> jax.Array:
            """The side of some nodes, float32 (n, d)."""
            *modal, fusion = views
            shares = [w(jnp.tanh(query(fusion))).astype(jnp.float32) for w, query in zip(weights, queries, strict=True)]
            parts = [scale * jax.nn.softmax(share, axis=1) * x for share, x in zip(shares, modal, strict=True)]
            gates = [nn.sigmoid(prefer(shared).astype(jnp.float32)) for prefer in preferences]
            if train:
                keys = jax.random.split(self.make_rng("dropout"), len(gates))
                gates = [drop_rows(key, nodes, gate, self.dropout) for key, gate in zip(keys, gates, strict=True)]
            side = sum((gate * part for gate, part in zip(gates, [*parts, fusion], strict=True)), jnp.float32(0))
            return side / len(gates)

        shared_users, shared_items = jnp.split(shared, [self.num_users])
        user_rows, item_rows = self.chosen(users, shared_users, tables[0]), self.chosen(items, shared_items, tables[1])
        sides = fuse(users, *user_rows), fuse(items, *item_rows)
        return Representations(
            user_rows[0] + sides[0],
            item_rows[0] + sides[1],
            {"side": sides, "shared": (shared_users, shared_items)},
        )
