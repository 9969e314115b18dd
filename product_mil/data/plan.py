"""Plans decide which products fill which slots of which step, before any pixel is read.

A step has S shards with n image slots and p product slots each, and all images of a product are in
one shard. Plans are pure functions of their arguments, and `positions(step)` needs no earlier step.
So a run resumes by starting at step k, whatever the number of threads, hosts or devices.
"""

import threading
from collections import OrderedDict
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int, Int64


@runtime_checkable
class Plan(Protocol):
    """The properties of a plan that the loader uses."""

    shards: int
    image_slots: int  # n, in a shard
    product_slots: int  # p, in a shard
    num_steps: int  # steps of one pass over the products

    def positions(self, step: int) -> list[Int64[np.ndarray, " _"]]:
        """For each shard, the positions of its products in the array the plan was made from."""
        ...


def _template(counts: Int[np.ndarray, " sizes"], num_bins: int) -> Int64[np.ndarray, "bins sizes"]:
    """The number of products of each size in each bin, such that bins are filled evenly.

    Sizes are distributed from the largest on, each product to the emptiest bin. All products of one
    size are distributed in one NumPy step, like water that fills the lowest places.
    """
    template = np.zeros((num_bins, len(counts)), np.int64)
    filled = np.zeros(num_bins, np.int64)
    for size in range(len(counts) - 1, 0, -1):
        # Bin b would take its j-th product of this size at level filled[b] + j * size. Products go
        # to the lowest levels, and with equal levels to the lower bin.
        rounds = -(-int(counts[size]) // num_bins) + 1 + int(np.ptp(filled)) // size
        levels = filled[:, None] + size * np.arange(rounds)[None, :]
        order = np.argsort(levels, axis=None, kind="stable")[: counts[size]]
        taken = np.bincount(order // rounds, minlength=num_bins)
        template[:, size] = taken
        filled += taken * size
    return template


def balanced_draws(labels: Int[np.ndarray, " N"], power: float) -> Float64[np.ndarray, " N"]:
    """How often each product is drawn in an epoch of N draws to make classes more balanced.

    A class of n products is drawn in proportion to n ** (1 - power). A power of 0 changes nothing,
    1 draws all classes equally often, and 0.5 is between ("square-root sampling").
    """
    sizes = np.bincount(labels).astype(np.float64)
    weights = sizes[labels] ** -power
    return weights * (len(labels) / weights.sum())


class ShuffledPlan:
    """The plan for training: each epoch is a new shuffle of all products, with constant steps.

    The histogram of products by number of images gives one template of bins. Each epoch permutes
    the bins, and the products of each size. Every product appears once in an epoch.

    With `draws` and `labels`, product i appears `draws[i]` times in an epoch on average: the whole
    part of that in each epoch, and once more in some. The histogram is then that of the draws, so
    the number of steps stays constant.
    """

    def __init__(
        self,
        num_images: Int[np.ndarray, " N"],
        *,
        shards: int,
        image_slots: int,
        seed: int,
        draws: Float64[np.ndarray, " N"] | None = None,
        labels: Int[np.ndarray, " N"] | None = None,
    ) -> None:
        """Make a plan for products with `num_images` images each, from 1 to `image_slots`.

        Raises:
            ValueError: there is no product, or a number of images is outside that range.
        """
        if len(num_images) == 0:
            raise ValueError("a plan needs at least one product")
        if num_images.min() < 1 or num_images.max() > image_slots:
            raise ValueError(f"products need 1 to {image_slots} images to be packed")
        self.shards, self.image_slots, self.seed = shards, image_slots, seed
        counts = np.bincount(num_images)
        self._draws, self._labels = draws, labels
        if draws is not None:
            # Rounded up, so that even the rarest size is drawn.
            counts = np.ceil(np.bincount(num_images, draws) - 1e-6).astype(np.int64)
        self._counts = counts
        total = int((counts * np.arange(len(counts))).sum())
        self.num_steps = -(-total // (shards * image_slots))
        sizes = np.arange(len(counts))
        while True:
            template = _template(counts, self.num_steps * shards)
            if (template @ sizes).max() <= image_slots:
                break
            self.num_steps += 1 + self.num_steps // 256  # growing increments, so few tries
        # A multiple of 8, so that similar data sets have equal shapes and share compiled programs.
        self.product_slots = min(-(-int(template.sum(1).max()) // 8) * 8, image_slots)
        self._template = template
        self._starts = np.cumsum(template, axis=0) - template
        self._by_size = [np.flatnonzero(num_images == size) for size in range(len(counts))]
        self._epochs: OrderedDict[int, tuple[np.ndarray, list[np.ndarray]]] = OrderedDict()
        self._lock = threading.Lock()

    def _order(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The orders of bins and products in an epoch; the last two epochs are kept."""
        with self._lock:
            if epoch not in self._epochs:
                rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
                bins = rng.permutation(len(self._template))
                self._epochs[epoch] = (
                    bins,
                    [
                        self._drawn(rows, int(count), rng)
                        for rows, count in zip(self._by_size, self._counts, strict=True)
                    ],
                )
                while len(self._epochs) > 2:
                    self._epochs.popitem(last=False)
            return self._epochs[epoch]

    def _drawn(
        self, rows: Int64[np.ndarray, " n"], count: int, rng: np.random.Generator
    ) -> Int64[np.ndarray, " c"]:
        """The `count` products of one size that an epoch draws, in random order."""
        order = rng.permutation(rows)
        if self._draws is None or self._labels is None or not len(rows):
            return order
        # Systematic sampling (Madow 1949) of products sorted by class, in random order within each
        # class: each class and each product is drawn as often as it should, to within one draw.
        order = order[np.argsort(self._labels[order], kind="stable")]
        ends = np.cumsum(self._draws[order])
        points = (np.arange(count) + rng.random()) * (ends[-1] / count)
        return rng.permutation(order[np.searchsorted(ends, points, side="right")])

    def positions(self, step: int) -> list[Int64[np.ndarray, " _"]]:
        """For each shard of step `step`, counted over all epochs, the positions of its products."""
        epoch, index = divmod(step, self.num_steps)
        bins, products = self._order(epoch)
        return [
            np.concatenate(
                [
                    order[self._starts[b, size] : self._starts[b, size] + self._template[b, size]]
                    for size, order in enumerate(products)
                ]
            )
            for b in bins[index * self.shards : (index + 1) * self.shards]
        ]

    def __getstate__(self) -> dict[str, object]:
        """Leave out the lock, which cannot be pickled, and the permutations, which are cheap."""
        return {**self.__dict__, "_lock": None, "_epochs": OrderedDict()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


class ShareOfPlan:
    """The shards of a plan that are one process's: equal parts of each step, in order."""

    def __init__(self, plan: Plan, index: int, count: int) -> None:
        """Take part `index` of `count`.

        Raises:
            ValueError: the shards cannot be divided evenly.
        """
        if plan.shards % count:
            raise ValueError(f"{plan.shards} shards for {count} processes")
        self._plan, self.shards = plan, plan.shards // count
        self._own = slice(index * self.shards, (index + 1) * self.shards)
        self.image_slots, self.product_slots = plan.image_slots, plan.product_slots
        self.num_steps = plan.num_steps

    def positions(self, step: int) -> list[Int64[np.ndarray, " _"]]:
        """For each of these shards, the positions of its products."""
        return self._plan.positions(step)[self._own]


class SequentialPlan:
    """The plan for prediction: every product once, in the given order, packed by next fit.

    A product without images takes a product slot and no image slot, so none is lost.
    """

    def __init__(
        self,
        num_images: Int[np.ndarray, " N"],
        *,
        shards: int,
        image_slots: int,
        product_slots: int | None = None,
    ) -> None:
        """Make a plan for products with `num_images` images each, from 0 to `image_slots`.

        By default each shard has as many product slots as the fullest one needs. With a given
        number of `product_slots`, the shape of batches does not depend on the products.

        Raises:
            ValueError: a number of images is outside that range.
        """
        if len(num_images) and (num_images.min() < 0 or num_images.max() > image_slots):
            raise ValueError(f"products need 0 to {image_slots} images to be packed")
        self.shards, self.image_slots = shards, image_slots
        ends = np.cumsum(num_images, dtype=np.int64)
        bounds = [0]
        while bounds[-1] < len(num_images):
            start = bounds[-1]
            used = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, used + image_slots, side="right"))
            bounds.append(min(stop, start + (product_slots or image_slots)))
        self._bounds = np.asarray(bounds, np.int64)
        self.num_steps = -(-(len(bounds) - 1) // shards)
        largest = int(np.diff(self._bounds).max()) if len(bounds) > 1 else 1
        self.product_slots = product_slots or min(-(-largest // 8) * 8, image_slots)

    def positions(self, step: int) -> list[Int64[np.ndarray, " _"]]:
        """For each shard of step `step`, its products. The last step may have empty shards."""
        last = len(self._bounds) - 1
        first = step * self.shards
        return [
            np.arange(self._bounds[min(b, last)], self._bounds[min(b + 1, last)])
            for b in range(first, first + self.shards)
        ]
