"""What every head is to the rest of the program: its facts and its call."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from flax import nnx

# The fields of `config.model` that some heads read and others do not.
ATTENTION = ("attention_heads", "attention_dim")
PLACES = ("position_embedding", "count_embedding")
OWN_SETTINGS = ATTENTION + PLACES


@dataclass(frozen=True)
class HeadSpec:
    """What the rest of the program has to know of a head.

    `build(dim, classes, dropout_rate=, rngs=)` makes a `Head` for embeddings of `dim` channels. It
    takes those fields of `config.model` besides that `settings` names, and with `needs_levels` the
    groups of every class at each level of the category tree, `levels=`.

    Raises:
        ValueError: `settings` names something that is not in `OWN_SETTINGS`.
    """

    name: str  # that `config.model.pooling` chooses it by
    build: Callable[..., nnx.Module]
    about: str  # how it fuses a product's images, in a few words for reports
    settings: tuple[str, ...] = ()  # of `OWN_SETTINGS`
    # The layers that have an axis of classes, and which axis of their arrays that is.
    class_axes: Mapping[str, int] = field(default_factory=lambda: {"classify": -1})
    attends: bool = False  # attention can differ from one image of a product to the next
    averages: bool = False  # probabilities of images are averaged, so other rules can be tried
    needs_levels: bool = False
    takes_weights: bool = True  # the net below it may start from trained weights
    is_counted: bool = False  # holds the class frequencies, and is not trained

    def __post_init__(self) -> None:
        unknown = set(self.settings) - set(OWN_SETTINGS)
        if unknown:
            raise ValueError(
                f"{self.name}: {min(unknown)} is none of {', '.join(OWN_SETTINGS)}; bind other "
                "arguments of `build` with functools.partial"
            )
