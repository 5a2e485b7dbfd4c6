"""Synthetic catalogues of any size, shaped like Amazon Baby but with features of moderate width.

- Popularity: an item of rank r is drawn with probability proportional to (r + 100)^-0.96, the Zipf-Mandelbrot law that
  fits the items' degrees in Baby's train split best (maximum likelihood; the sum of the squared shares, which decides
  how much work a co-occurrence graph is, comes out at 0.00049 against 0.00051 in the data).
- Activity: a user has 3 + a geometric number of interactions, 8 on average after repeated draws are dropped.
- Taste: items belong to categories of about 100, and a user takes 70% of the items from one of them. The features of an
  item are those of its category plus noise of the same variance; modalities are independent.
"""

import numpy as np

from rearm_jax.data.dataset import Dataset, make_dataset

MODALITIES = ("image", "text")
WIDTH = 64  # features of a modality
_EXPONENT, _SHIFT = 0.96, 100
_LEAST, _MEAN = 3, 8.9  # draws of a user; repeated ones are dropped
_CATEGORY_SIZE, _LOYALTY = 100, 0.7
_HELD_OUT = 1000  # interactions in each of validation and test


def make_catalogue(num_users: int, seed: int = 0) -> Dataset:
    """A data set of num_users users and a fifth as many items; the same arguments give the same data.

    Args:
      num_users: at least 1000.
      seed: of numpy's default generator.
    """
    rng = np.random.default_rng(seed)
    num_items = num_users // 5
    num_categories = max(1, num_items // _CATEGORY_SIZE)
    category = np.sort(rng.integers(num_categories, size=num_items))  # items of a category stand together, for now
    weight = rng.permutation((np.arange(1, num_items + 1) + _SHIFT) ** -_EXPONENT)
    before = np.concatenate([[0], np.cumsum(weight / weight.sum())])

    counts = _LEAST - 1 + rng.geometric(1 / (_MEAN - _LEAST + 1), num_users)
    users = np.repeat(np.arange(num_users), counts)
    # A user's category is that of a popular item, so that loyal and other draws follow the same law together.
    favourite = category[_draw(before, rng.random(num_users))]
    first, last = (np.searchsorted(category, favourite, side=side) for side in ("left", "right"))
    loyal = rng.random(len(users)) < _LOYALTY
    low, high = np.where(loyal, before[first][users], 0), np.where(loyal, before[last][users], 1)
    items = _draw(before, low + rng.random(len(users)) * (high - low))

    ids = rng.permutation(num_items)  # the numbers of items tell nothing about them
    pairs = np.unique(users * num_items + ids[items])
    pairs = np.stack(np.divmod(rng.permutation(pairs), num_items), axis=1)
    features = {name: np.empty((num_items, WIDTH), np.float32) for name in MODALITIES}
    for table in features.values():
        centres = rng.standard_normal((num_categories, WIDTH), np.float32)
        table[ids] = centres[category] + rng.standard_normal((num_items, WIDTH), np.float32)
    splits = pairs[2 * _HELD_OUT :], pairs[:_HELD_OUT], pairs[_HELD_OUT : 2 * _HELD_OUT]
    return make_dataset(*splits, features, num_users)


def _draw(before: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Items whose interval of the cumulative weights holds the numbers."""
    return np.minimum(np.searchsorted(before, uniform, side="right") - 1, len(before) - 2)
