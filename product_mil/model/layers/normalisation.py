"""The arithmetic of BatchNorm, with gradients that keep only its input in memory.

By default JAX also keeps x - mean for the gradients. That is another pass through memory, and
passes through memory are what normalisation costs.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from product_mil.batch import Shape


@jax.custom_vjp
def moments(
    x: Float[Array, "b h w c"], mask: Bool[Array, " b"]
) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
    """Mean and biased variance of each channel, over the images that `mask` marks.

    It takes two passes, since E[x^2] - E[x]^2 loses the variance of channels with a large mean.
    """
    real, count = _real(x, mask)
    mean = jnp.where(real, x, 0).sum((0, 1, 2)) / count
    return mean, jnp.where(real, jnp.square(x - _wide(mean)), 0).sum((0, 1, 2)) / count


def _real(x: Array, mask: Array) -> tuple[Array, Array]:
    """The mask in the shape of x, and the number of values of a channel that it selects."""
    return mask[:, None, None, None], mask.sum() * (x.shape[1] * x.shape[2])


def _wide(of_channel: Array) -> Array:
    return of_channel[None, None, None]


def _moments_forward(x: Array, mask: Array):
    mean, var = moments(x, mask)
    return (mean, var), (x, mask, mean)


def _moments_backward(saved: tuple[Array, Array, Array], gradients: tuple[Array, Array]):
    x, mask, mean = saved
    dmean, dvar = gradients  # the mean's part in the variance has no gradient: it is the minimum
    real, count = _real(x, mask)
    dx = (_wide(dmean) + 2 * (x - _wide(mean)) * _wide(dvar)) / count
    return jnp.where(real, dx, 0), None


moments.defvjp(_moments_forward, _moments_backward)


@jax.custom_vjp
def normalise(
    x: Float[Array, "b h w c"],
    mean: Float[Array, " c"],
    factor: Float[Array, " c"],
    bias: Float[Array, " c"],
) -> Float[Array, "b h w c"]:
    """(x - mean) factor + bias, for each channel."""
    return (x - _wide(mean)) * _wide(factor) + _wide(bias)


def _normalise_forward(x: Array, mean: Array, factor: Array, bias: Array):
    return normalise(x, mean, factor, bias), (x, mean, factor)


def _normalise_backward(saved: tuple[Array, Array, Array], dy: Array):
    x, mean, factor = saved
    dbias = dy.sum((0, 1, 2))
    dfactor = (dy * (x - _wide(mean))).sum((0, 1, 2))
    return dy * _wide(factor), -factor * dbias, dfactor, dbias


normalise.defvjp(_normalise_forward, _normalise_backward)


def at_each_place(
    of_channel: Float[Array, " c"], x: Float[Array, "b h w c"]
) -> Float[Array, "b h w c"]:
    """A vector over the channels, repeated at every place of `x`, in the type of `x`.

    Its gradient is summed in float32. In bfloat16, a Hopper GPU would add up thousands of values
    with a precision of only 1/128 of the sum.
    """
    return _at_each_place(of_channel, x.shape, x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _at_each_place(of_channel: Array, shape: Shape, dtype: DTypeLike) -> Array:
    return jnp.broadcast_to(_wide(of_channel.astype(dtype)), shape)


def _at_each_place_forward(of_channel: Array, shape: Shape, dtype: DTypeLike):
    return _at_each_place(of_channel, shape, dtype), None


def _at_each_place_backward(shape: Shape, dtype: DTypeLike, _: None, dy: Array):
    del shape, dtype
    return (dy.astype(jnp.promote_types(dy.dtype, jnp.float32)).sum((0, 1, 2)),)


_at_each_place.defvjp(_at_each_place_forward, _at_each_place_backward)
