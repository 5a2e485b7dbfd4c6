"""One optimiser step, and many of them in one device call."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rearm_jax.experiment import Optimizer
from rearm_jax.parallel.rows import Nodes, Shard
from rearm_jax.recommender.contract import Batch, Inputs, Recommender
from rearm_jax.training.order import ComputedOrder, epoch_order
from rearm_jax.training.sampling import Sampler, draw_batch

_EPOCH_STREAM, _STEP_STREAM, _INPUT_STREAM = 0, 1, 2


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
    model: Recommender, params: dict, inputs: Inputs, batch: Batch, key: jax.Array, shard: Shard
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """This device's share of the batch's loss: the shares of all devices add up to the loss of the whole batch.

    Where every device holds the whole graphs and tables, no share needs another device's arrays; where they are cut by
    row, the devices exchange rows on the way.

    Args:
      model: the model.
      params: its parameters.
      inputs: its graphs and frozen tables.
      batch: the global batch; its rows are a multiple of the number of devices.
      key: random key of this step's dropout, the same on all devices.
      shard: which share.

    Returns:
      float32 () and its weighted parts by name.
    """
    mine = batch.map_rows(shard.rows)
    out: Any = model.apply(
        {"params": params},
        inputs,
        Nodes(shard.users, mine.users),
        Nodes(shard.items, jnp.concatenate([mine.positives, mine.negatives])),
        train=True,
        rngs={"dropout": key},
    )
    parts = model.losses(out, batch, shard)
    total: Any = sum(parts.values())
    return total, parts


def train_step(
    model: Recommender,
    tx: optax.GradientTransformationExtraArgs,
    state: TrainState,
    inputs: Inputs,
    batch: Batch,
    shard: Shard,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One AdamW step on the global batch; the result does not depend on the number of devices.

    Returns:
      The next state and metrics, each float32 (): the loss, its weighted parts and the gradient's norm.
    """
    batch = batch.map_rows(shard.pad)
    key = jax.random.fold_in(_stream(state, _STEP_STREAM), state.step)
    dropout_key = jax.random.fold_in(key, 1)

    def share(params: dict) -> tuple[jax.Array, dict[str, jax.Array]]:
        return loss_share(model, params, inputs, batch, dropout_key, shard)

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


def draw_order(num_interactions: int, batch_size: int, shard: Shard, state: TrainState) -> jax.Array | ComputedOrder:
    """The order of the interactions in the epoch that `state` stands in, of `epoch_order`, for `train_steps`.

    It depends on the root key and the number of the epoch alone, whichever step of the epoch it is drawn at.
    """
    epoch = state.step // steps_per_epoch(num_interactions, batch_size)
    return epoch_order(jax.random.fold_in(_stream(state, _EPOCH_STREAM), epoch), num_interactions)


def draw_epoch(
    model: Recommender, num_interactions: int, batch_size: int, shard: Shard, state: TrainState, inputs: Inputs
) -> tuple[jax.Array | ComputedOrder, Inputs]:
    """What is drawn once an epoch: its `draw_order`, and the model's `epoch_inputs`."""
    epoch = state.step // steps_per_epoch(num_interactions, batch_size)
    key = jax.random.fold_in(_stream(state, _INPUT_STREAM), epoch)
    return draw_order(num_interactions, batch_size, shard, state), model.epoch_inputs(inputs, key)


def train_steps(
    model: Recommender,
    tx: optax.GradientTransformationExtraArgs,
    batch_size: int,
    shard: Shard,
    state: TrainState,
    inputs: Inputs,
    sampler: Sampler,
    order: jax.Array | ComputedOrder,
    num_steps: jax.Array,
) -> tuple[TrainState, dict[str, jax.Array], dict[str, jax.Array]]:
    """The next steps of the epoch that `state` stands in, on the device; ends early after a non-finite step.

    How an epoch is cut into calls does not change the result.

    Args:
      model, tx: model and optimiser.
      batch_size: global, static.
      shard: this device's share.
      state: where training stands.
      inputs: those of the epoch.
      sampler: the train interactions.
      order: of the interactions in this epoch, from `draw_order`.
      num_steps: int32 (), must not go past the end of the epoch.

    Returns:
      The state, the sums of the metrics over the steps done, and the metrics of the last step done.
    """
    first = state.step - state.step % steps_per_epoch(len(order), batch_size)

    @jax.jit  # traced once, for the shapes and in the loop
    def next_step(state: TrainState) -> tuple[TrainState, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.fold_in(_stream(state, _STEP_STREAM), state.step), 0)
        position = (state.step - first) * batch_size
        batch = draw_batch(sampler, order, position, key, batch_size, shard, model.num_shared_negatives)
        return train_step(model, tx, state, inputs, batch, shard)

    def unfinished(carry: tuple) -> jax.Array:
        done, finite, *_ = carry
        return (done < num_steps) & finite

    def body(carry: tuple) -> tuple:
        done, _, state, sums, _ = carry
        state, metrics = next_step(state)
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        return done + 1, finite, state, jax.tree.map(jnp.add, sums, metrics), metrics

    _, metrics = jax.eval_shape(next_step, state)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
    carry = (jnp.int32(0), jnp.bool_(True), state, zeros, zeros)
    _, _, state, sums, last = jax.lax.while_loop(unfinished, body, carry)
    return state, sums, last


def steps_with_rates(
    model: Recommender,
    optimizer: Optimizer,
    batch_size: int,
    shard: Shard,
    state: TrainState,
    inputs: Inputs,
    sampler: Sampler,
    order: jax.Array | ComputedOrder,
    num_steps: jax.Array,
    rates: dict[str, dict[str, Any]],
) -> tuple[TrainState, dict[str, jax.Array], dict[str, jax.Array]]:
    """`train_steps` of model and optimiser with the rates of `Experiment.split_rates`, arguments of the program."""
    model = model.with_rates(rates["model"])
    tx = optimizer.transformation(model, rates["optimizer"])
    return train_steps(model, tx, batch_size, shard, state, inputs, sampler, order, num_steps)


def _stream(state: TrainState, stream: int) -> jax.Array:
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), stream)
