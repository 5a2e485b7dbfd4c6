"""One optimiser step, and many of them in one device call."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from rearm_jax.graphs.build import Graphs
from rearm_jax.losses import bpr_loss, contrastive_loss, first_occurrence, orthogonal_loss
from rearm_jax.models.representations import Representations
from rearm_jax.training.parallel import Shard
from rearm_jax.training.sampling import Batch, Sampler, draw_batch, epoch_order

PARTS = ("bpr", "contrastive", "orthogonal", "l2")
_EPOCH_STREAM, _STEP_STREAM = 0, 1


class TrainState(NamedTuple):
    """All that training changes. The same state gives the same next step, bit for bit, on the same machine."""

    params: dict
    opt_state: optax.OptState
    step: jax.Array | Any  # int32 (), optimiser steps done
    key: jax.Array  # uint32 key data of the root key, constant; each step folds its number in

    def rest(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the parameters, `TrainState(params, **rest)`."""
        return {"opt_state": self.opt_state, "step": self.step, "key": self.key}


def steps_per_epoch(num_interactions: int, batch_size: int) -> int:
    """Optimiser steps in an epoch; the last batch may be short."""
    return -(-num_interactions // batch_size)


def loss_share(
    apply: Callable, config: ConfigDict, params: dict, graphs: Graphs, batch: Batch, key: jax.Array, shard: Shard
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """This device's share of the batch's loss: the shares of all devices add up to the loss of the whole batch.

    Every device knows the whole batch's node numbers: BPR and the contrastive loss are split by rows of the batch; the
    orthogonal loss couples all rows and is divided. Where every device holds the whole graphs and tables, no share
    needs another device's arrays; where they are sharded by row, the devices exchange rows on the way.

    Args:
      apply: the model's `apply`.
      config: config.loss.
      params: parameters of the model.
      graphs: the relations.
      batch: the global batch; its length is a multiple of the number of devices.
      key: random key of this step's dropout, the same on all devices.
      shard: which share.

    Returns:
      float32 () and its weighted parts by name (PARTS).
    """
    mine = jax.tree.map(shard.rows, batch)
    count = jnp.maximum(jnp.sum(batch.mask), 1).astype(jnp.float32)
    weights = mine.mask / count
    mine_items = jnp.concatenate([mine.positives, mine.negatives])
    out: Representations = apply(
        {"params": params},
        graphs,
        train=True,
        users=mine.users,
        items=mine_items,
        user_rows=shard.users,
        item_rows=shard.items,
        rngs={"dropout": key},
    )
    positives, negatives = jnp.split(out.items, 2)
    positive_scores = jnp.sum(out.users * positives, axis=1)
    negative_scores = jnp.sum(out.users * negatives, axis=1)
    parts = dict.fromkeys(PARTS, jnp.float32(0))
    parts["bpr"] = bpr_loss(positive_scores, negative_scores, weights)

    pairs = [(a, b) for b in range(len(out.modal_users)) for a in range(b)]
    if pairs and (config.contrastive_weight or config.orthogonal_weight):
        items, item_mask = jnp.concatenate([batch.positives, batch.negatives]), jnp.tile(batch.mask, 2)
        modal_users = shard.users.lookup(lambda places: [table[places] for table in out.modal_users], batch.users)
        modal_items = shard.items.lookup(lambda places: [table[places] for table in out.modal_items], items)
    if pairs and config.contrastive_weight:
        nodes = [(modal_users, batch.users, batch.mask), (modal_items, items, item_mask)]
        loss = sum(
            _contrastive_share(views[a], views[b], ids, mask, config.temperature, shard)
            for views, ids, mask in nodes
            for a, b in pairs
        )
        parts["contrastive"] = config.contrastive_weight / len(pairs) * loss
    if pairs and config.orthogonal_weight:
        modal_positives = [view[: len(batch.positives)] for view in modal_items]
        modal_rows = (modal_users, modal_positives)
        loss = sum(orthogonal_loss(views[a], views[b], batch.mask) for views in modal_rows for a, b in pairs)
        parts["orthogonal"] = config.orthogonal_weight / len(pairs) / shard.count * loss
    if config.l2_weight:
        rows = shard.users.take(out.user_ids, mine.users), *jnp.split(shard.items.take(out.item_ids, mine_items), 2)
        squares = sum(jnp.sum(row**2, axis=1) for row in rows)
        parts["l2"] = config.l2_weight / 2 * jnp.sum(weights * squares)
    total: Any = sum(parts.values())
    return total, parts


def _contrastive_share(
    first: jax.Array, second: jax.Array, ids: jax.Array, mask: jax.Array, temperature: float, shard: Shard
) -> jax.Array:
    """The contrastive loss over the unique ids of the batch, this device's rows of it as anchors."""
    # The place of an id among the sorted ones stands for it: `first_occurrence` takes memory by the largest id.
    labels = jnp.searchsorted(jnp.sort(ids), ids)
    unique = first_occurrence(labels, mask, ids.shape[0])
    weights = unique / jnp.maximum(jnp.sum(unique), 1).astype(jnp.float32)
    position = jnp.arange(ids.shape[0], dtype=jnp.int32)
    return contrastive_loss(shard.rows(first), second, shard.rows(position), shard.rows(weights), unique, temperature)


def train_step(
    apply: Callable,
    tx: optax.GradientTransformationExtraArgs,
    config: ConfigDict,
    state: TrainState,
    graphs: Graphs,
    batch: Batch,
    shard: Shard,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One AdamW step on the global batch; the result does not depend on the number of devices.

    Returns:
      The next state and metrics, each float32 (): the loss, its weighted PARTS and the gradient's norm.
    """
    batch = jax.tree.map(shard.pad, batch)
    key = jax.random.fold_in(_stream(state, _STEP_STREAM), state.step)
    dropout_key = jax.random.fold_in(key, 1)

    def share(params: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss_share(apply, config, params, graphs, batch, dropout_key, shard)

    (loss, parts), grads = jax.value_and_grad(share, has_aux=True)(state.params)
    loss, parts = shard.sum((loss, parts))
    grads = shard.sum_gradients(grads)
    grad_norm = shard.norm(grads)
    # Behind the barrier nothing else reads the parameters, so that they are updated where they lie; and the squares of
    # the gradients are made once more, on the fly, instead of kept from the norm.
    grads, old_params, grad_norm = jax.lax.optimization_barrier((grads, state.params, grad_norm))
    updates, opt_state = tx.update(grads, state.opt_state, old_params, grad_norm=grad_norm)
    params = optax.apply_updates(old_params, updates)
    metrics = {"loss": loss, **parts, "grad_norm": grad_norm}
    return TrainState(params, opt_state, state.step + 1, state.key), metrics


def draw_order(num_interactions: int, batch_size: int, shard: Shard, state: TrainState) -> jax.Array:
    """The order of the interactions in the epoch that `state` stands in, int32 (num_interactions,), for `train_steps`.

    It depends on the root key and the number of the epoch alone, whichever step of the epoch it is drawn at.
    """
    epoch = state.step // steps_per_epoch(num_interactions, batch_size)
    return epoch_order(jax.random.fold_in(_stream(state, _EPOCH_STREAM), epoch), num_interactions)


def train_steps(
    apply: Callable,
    tx: optax.GradientTransformationExtraArgs,
    config: ConfigDict,
    batch_size: int,
    shard: Shard,
    state: TrainState,
    graphs: Graphs,
    sampler: Sampler,
    order: jax.Array,
    num_steps: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array], dict[str, jax.Array]]:
    """The next steps of the epoch that `state` stands in, on the device; ends early after a non-finite step.

    How an epoch is cut into calls does not change the result.

    Args:
      apply, tx, config: model, optimiser, config.loss.
      batch_size: global, static.
      shard: this device's share.
      state: where training stands.
      graphs, sampler: the data.
      order: int32 (n,), of the interactions in this epoch, from `draw_order`.
      num_steps: int32 (), must not go past the end of the epoch.

    Returns:
      The state, the sums of the metrics over the steps done, and the metrics of the last step done.
    """
    first = state.step - state.step % steps_per_epoch(len(order), batch_size)
    zeros = {name: jnp.float32(0) for name in ("loss", *PARTS, "grad_norm")}

    def unfinished(carry: tuple) -> jax.Array:
        done, finite, *_ = carry
        return (done < num_steps) & finite

    def body(carry: tuple) -> tuple:
        done, _, state, sums, _ = carry
        key = jax.random.fold_in(jax.random.fold_in(_stream(state, _STEP_STREAM), state.step), 0)
        batch = draw_batch(sampler, order, (state.step - first) * batch_size, key, batch_size, shard)
        state, metrics = train_step(apply, tx, config, state, graphs, batch, shard)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        return done + 1, finite, state, jax.tree.map(jnp.add, sums, metrics), metrics

    carry = (jnp.int32(0), jnp.bool_(True), state, zeros, zeros)
    _, _, state, sums, last = jax.lax.while_loop(unfinished, body, carry)
    return state, sums, last


def _stream(state: TrainState, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), stream)
