"""What a server takes at most, and how it says no."""

import math
from dataclasses import dataclass

MEGA = 1_000_000
BUSY_S = 1.0  # after which a client may try again


class Refused(Exception):
    """A request that is not answered: the HTTP status, and one line that says what to do."""

    def __init__(self, status: int, line: str, retry_after_s: float | None = None) -> None:
        super().__init__(line)
        self.status, self.line = status, line
        self.headers: dict[str, str] = {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(math.ceil(retry_after_s))


@dataclass(frozen=True)
class Limits:
    """What a server takes at most. All of it is checked before an image is decoded."""

    images: int = 8  # of a product
    products: int = 64  # of a request
    image_bytes: int = 20 * MEGA
    body_bytes: int = 64 * MEGA
    bodies: int = 4  # so many of this size may be in memory at the same time, or more smaller ones
    pixels: int = 400 * MEGA  # of all images of a request; a product from a phone has 8 x 48
    waiting_images: int = 256  # when so many wait, further requests are sent away
    read_s: float = 30.0  # that a client may take to send its request
    wait_s: float = 30.0  # that a request may wait for its turn
    stop_s: float = 20.0  # that requests in flight may take when the server is asked to stop
