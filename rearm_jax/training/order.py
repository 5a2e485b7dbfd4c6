"""In which order an epoch goes through the interactions: sorted by random numbers, or computed where they are many."""

import math

import flax
import jax
import jax.numpy as jnp

_SORTED_AT_MOST = 2**24  # interactions; 64 MB for the order, and a few times that while it is sorted
_ROUNDS = 8


@flax.struct.dataclass
class ComputedOrder:
    """A random permutation of n interactions that is computed position by position: it takes no memory.

    A Feistel network (Luby & Rackoff, SIAM J. Comput. 1988) permutes the numbers below side^2, the smallest square of
    at least n: each is a pair of numbers below side, and a round adds to one of them, modulo side, a random number that
    the other one picks. What lands at n or above, at most a share of 2 / side, goes through it again until it is below
    ("cycle walking": Black & Rogaway, CT-RSA 2002).

    Attributes:
      key: random key data of the epoch.
      num_interactions: static, n.
    """

    key: jax.Array
    num_interactions: int = flax.struct.field(pytree_node=False)

    def __len__(self) -> int:
        return self.num_interactions

    def __getitem__(self, positions: jax.Array) -> jax.Array:
        """The interactions at some positions, int32 (b,), each 0..n-1."""
        side = math.isqrt(self.num_interactions - 1) + 1
        return permute(jax.random.wrap_key_data(self.key), positions, self.num_interactions, side)


def epoch_order(key: jax.Array, num_interactions: int) -> jax.Array | ComputedOrder:
    """What gives the interaction at a position of an epoch, by `order[positions]`; `len(order)` is their number.

    Up to 2^24 interactions it is an array, int32 (num_interactions,); beyond, it is computed: no device sorts or holds
    it. No run of more was made before the computed order came, so the version of the numerics stayed.
    """
    if num_interactions > _SORTED_AT_MOST:
        return ComputedOrder(jax.random.key_data(key), num_interactions)
    return jax.random.permutation(key, num_interactions)


def permute(key: jax.Array, positions: jax.Array, n: jax.Array | int, side: jax.Array | int) -> jax.Array:
    """Where a permutation of 0..n-1, which the key picks, sends some numbers.

    Args:
      key: random key.
      positions: int32 (b,), each 0..n-1.
      n: int (), from 1 to 2^31 - 1.
      side: int (), the smallest with side^2 >= n.

    Returns:
      int32 (b,).
    """
    n, side = jnp.uint32(n), jnp.uint32(side)

    def turn(number: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        left, right = pair
        round_key = jax.random.fold_in(key, number)
        drawn = jax.vmap(lambda half: jax.random.bits(jax.random.fold_in(round_key, half)))(right)
        return right, (left + drawn % side) % side

    def network(x: jax.Array) -> jax.Array:
        left, right = jax.lax.fori_loop(0, _ROUNDS, turn, (x // side, x % side))
        return left * side + right

    def walk(x: jax.Array) -> jax.Array:
        return jnp.where(x < n, x, network(x))

    first = network(positions.astype(jnp.uint32))
    return jax.lax.while_loop(lambda x: jnp.any(x >= n), walk, first).astype(jnp.int32)
