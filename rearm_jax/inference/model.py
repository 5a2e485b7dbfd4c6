"""A trained model as an object: opened once, asked often, under outside ids."""

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import scipy.sparse

from rearm_jax.errors import ConfigError, DataError
from rearm_jax.graphs.knn import nearest_exact
from rearm_jax.inference import recommend as lists
from rearm_jax.inference.arguments import Id, check_options, given_pairs, given_users, plain_ids, some_ids
from rearm_jax.inference.new_items import NewItems, own_new_items, represent_new_items
from rearm_jax.inference.recommend_files import as_objects
from rearm_jax.inference.rules import NO_RULES, Rules, check_rules
from rearm_jax.inference.seen import check_seen, find_seen
from rearm_jax.inference.trained import Trained
from rearm_jax.training.precision import without_x64


class TrainedModel:
    """A run's best checkpoint, from `rearm_jax.load`; it keeps data, parameters and vectors in memory.

    Attributes:
      user_ids: (num_users,) outside ids, text or integers; row i of `user_vectors` belongs to the i-th.
      item_ids: (num_items,) likewise.
    """

    def __init__(self, trained: Trained):
        self._trained = trained
        labels = trained.experiment.dataset.labels
        self.user_ids, self.item_ids = labels.user_ids, labels.item_ids

    def __repr__(self) -> str:
        title = self._trained.experiment.model.title
        return f"<{title} of {self._trained.workdir}: {len(self.user_ids):,} users, {len(self.item_ids):,} items>"

    @without_x64()
    def recommend(
        self,
        users: Iterable[Id] | None = None,
        k: int = 20,
        unknown: str = "refuse",
        seen: str | os.PathLike = "all",
        rules: Rules = NO_RULES,
    ) -> list[dict[str, Any]]:
        """The k best items of each user, without those that the user has already; among them the items without
        interactions that `prepare --catalogue all` kept, where the model can rank them.

        Args:
          users: outside ids; None: all.
          k: places in a list.
          unknown: what users get that the catalogue does not have: "refuse", an error; "popular", the items with the
            most train interactions. Their lists come last.
          seen: what users have already: the interactions of all splits ("all"), of train alone ("train"), nothing
            ("none"), or beside all splits those of a table, the file of which is named here.
          rules: what may be listed, such as `rearm_jax.Rules(allow=["A17", "B4"])`.

        Returns:
          {"user": id, "source": "model" or "popular", "items": [{"item": id, "name": ..., "score": ...}, ...]} for each
          user, best item first; "name" where the catalogue has names, and "new" (true or false) where items without
          interactions are ranked, too.

        Raises:
          ConfigError: k, `unknown`, `seen` or a rule is impossible, or `users` is no list of ids.
          DataError: a user is unknown, or a file of a rule cannot be used.
        """
        named = given_users(users)
        check_options(k, unknown)
        check_seen(seen)
        check_rules(rules)
        new = self._new_items
        bought = find_seen(self._trained.experiment.dataset, seen, new_item_ids=new.ids.tolist() if new else ())
        items, blocks = lists.recommend(
            self._trained, named, k, unknown=unknown, new_items=new, seen=bought, rules=rules
        )
        return [user for block in blocks for user in as_objects(items, block)]

    @without_x64()
    def similar_items(self, items: Iterable[Id], k: int = 10) -> list[dict[str, Any]]:
        """The k items most similar to each: by the cosine of their vectors; of a fitted model, which has none, those
        that it would recommend to who has that item alone.

        Args:
          items: outside ids; of the catalogue, as are those found: new items have no place here.
          k: places in a list; the item itself is in none.

        Returns:
          {"item": id, "items": [{"item": id, "similarity": ...}, ...]} for each item, most similar first.

        Raises:
          ConfigError: k is impossible, or `items` is no list of ids.
          DataError: an item is unknown.
        """
        check_options(k, "refuse")
        k = int(k)  # one of numpy may have 8 bits
        if not 1 <= k < len(self.item_ids):
            raise ConfigError(f"k is {k}: there are {len(self.item_ids) - 1} other items; k must be 1 to that")
        rows = self._rows(items, "item")
        similarities, found = self._most_similar(rows, k + 1)
        answers = []
        for row, values, neighbours in zip(rows.tolist(), similarities, found, strict=True):
            others = [(n, v) for n, v in zip(neighbours.tolist(), values.tolist(), strict=True) if n != row][:k]
            places = [{"item": self.item_ids[n].item(), "similarity": v} for n, v in others]
            answers.append({"item": self.item_ids[row].item(), "items": places})
        return answers

    @without_x64()
    def score(self, pairs: Sequence[tuple[Id, Id]]) -> np.ndarray:
        """The model's score of pairs, float32 (n,): a larger one is a better match for the same user.

        Args:
          pairs: (user, item), outside ids; of items of the catalogue, not of new ones.

        Raises:
          DataError: a user or an item is unknown.
          ConfigError: these are no pairs of ids.
        """
        pairs = given_pairs(pairs)
        users, items = (self._rows([pair[side] for pair in pairs], what) for side, what in enumerate(("user", "item")))
        wanted, of_pair = np.unique(users, return_inverse=True)
        block_size = self._trained.experiment.config.evaluation.block_size
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(wanted), block_size):
            block = np.full(block_size, -1, np.int32)  # always as long: one program
            some = wanted[start : start + block_size]
            block[: len(some)] = some
            mine = (of_pair >= start) & (of_pair < start + block_size)
            scores[mine] = np.asarray(self._trained.scores(block))[of_pair[mine] - start, items[mine]]
        return scores

    @property
    def user_vectors(self) -> np.ndarray:
        """float32 (num_users, c); a score is the dot product with a row of `item_vectors`, but for a residual's part.

        Raises:
          ConfigError: a fitted model has no vectors.
        """
        return self._vectors[0]

    @property
    def item_vectors(self) -> np.ndarray:
        """float32 (num_items, c). Raises as `user_vectors`."""
        return self._vectors[1]

    @functools.cached_property
    def _new_items(self) -> NewItems | None:
        new = own_new_items(self._trained)
        return new and dataclasses.replace(new, vectors=represent_new_items(self._trained, new.features))

    @functools.cached_property
    def _vectors(self) -> tuple[np.ndarray, np.ndarray]:
        if self._trained.is_fitted:
            title = self._trained.experiment.model.title
            raise ConfigError(f"{title} is fitted in closed form and has no vectors of users and items; score() works")
        with without_x64():
            out = self._trained.representations
        return np.asarray(out.users, np.float32), np.asarray(out.items, np.float32)

    def _most_similar(self, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities float32 (m, k), largest first, and rows of items; the item itself may be among them."""
        if not self._trained.is_fitted:
            return nearest_exact(self.item_vectors, k, "items", self.item_vectors[rows])
        num_items = len(self.item_ids)
        entries = np.ones(len(rows), np.float32), (np.arange(len(rows)), rows)
        alone = scipy.sparse.csr_array(entries, shape=(len(rows), num_items))
        scores = self._trained.experiment.model.scores(self._trained.params, alone)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, axis=1), best

    def _rows(self, given: Iterable[Id], what: str) -> np.ndarray:
        """Rows of outside ids, int32 (n,), n > 0."""
        ids = {"user": self.user_ids, "item": self.item_ids}[what]
        named = given_users(given, f"{what}s")
        if not named:
            raise ConfigError(f"no {what}s are named; name one at least")
        plain = plain_ids(named, ids, what)
        row_of = self._row_of[what]
        if unknown := [one for one in plain if one not in row_of]:
            raise DataError(f"{len(unknown)} of {len(plain)} {what}s are not in the catalogue: {some_ids(unknown)}")
        return np.array([row_of[one] for one in plain], np.int32)

    @functools.cached_property
    def _row_of(self) -> dict[str, dict[Id, int]]:
        both = {"user": self.user_ids, "item": self.item_ids}
        return {what: {one: row for row, one in enumerate(ids.tolist())} for what, ids in both.items()}
