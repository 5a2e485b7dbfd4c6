"""Some users by name: what they had in train, and what the model recommends to them."""

from typing import Any, NamedTuple

import numpy as np

from rearm_jax.data.dataset import Dataset
from rearm_jax.inference.recommend import recommend
from rearm_jax.inference.seen import find_seen
from rearm_jax.inference.trained import Trained
from rearm_jax.report.sections import item_name, plural

NUM_USERS = 10
NUM_PLACES = 10  # items of a history that are shown, and places in a list
SEED = 0


class Person(NamedTuple):
    """A user with numbers of items.

    Attributes:
      user: what the user is called outside.
      history: some of the user's train items, drawn at random.
      num_train: how many train items there are.
      recommended: the list, best first.
      valid, test: what was held out of training.
    """

    user: str | int
    history: list[int]
    num_train: int
    recommended: list[int]
    valid: set[int]
    test: set[int]


def people(trained: Trained) -> list[Person]:
    """NUM_USERS users with train and test interactions, drawn at random, fewer where there are not as many."""
    dataset, random = trained.experiment.dataset, np.random.default_rng(SEED)
    candidates = np.intersect1d(dataset.train[:, 0], dataset.test[:, 0])
    if not len(candidates):
        return []
    users = np.sort(random.choice(candidates, min(NUM_USERS, len(candidates)), replace=False))
    seen = find_seen(dataset, "train")  # what was held out shall be found
    _, blocks = recommend(
        trained, dataset.labels.user_ids[users].tolist(), min(NUM_PLACES, dataset.num_items), seen=seen
    )
    lists = [row for block in blocks for row in block.items.tolist()]
    found = []
    for user, listed in zip(users, lists, strict=True):
        train, valid, test = (_items_of(dataset, split, user) for split in ("train", "valid", "test"))
        history = random.choice(train, min(NUM_PLACES, len(train)), replace=False).tolist()
        shown = [item for item in listed if item >= 0]
        name = dataset.labels.user_ids[user].item()
        found.append(Person(name, history, len(train), shown, set(valid.tolist()), set(test.tolist())))
    return found


def cards(people: list[Person], names: np.ndarray) -> list[dict[str, Any]]:
    """What the page shows of each user; `names` are those of the items, as `Labels.item_names`."""
    return [_card(person, names) for person in people]


def _card(person: Person, names: np.ndarray) -> dict[str, Any]:
    history = [item_name(names, item) for item in person.history]
    more = person.num_train - len(history)
    return {
        "name": f"user {person.user}" if isinstance(person.user, int) else person.user,
        "interactions": plural(person.num_train, "train interaction"),
        "history": [*history, f"and {more:,} more"] if more else history,
        "recommended": [(item_name(names, item), _mark(person, item)) for item in person.recommended],
    }


def _mark(person: Person, item: int) -> str:
    return "✓ test" if item in person.test else "✓ validation" if item in person.valid else ""


def _items_of(dataset: Dataset, split: str, user: int) -> np.ndarray:
    pairs = getattr(dataset, split)
    return pairs[pairs[:, 0] == user, 1]
