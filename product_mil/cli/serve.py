r"""Answer questions about products over HTTP, and show a page to try a model on.

    product-mil serve --model runs/joint
    product-mil serve --model runs/joint --beside runs/averaged --port 8080

POST images to /v1/predict and get categories (docs/guide/serving.md; /openapi.json describes it).
SIGTERM or Ctrl-C ends it after everything in flight is answered, with status 0. There is no
authentication, so it listens on this machine alone unless --host says otherwise.
"""

import argparse
import ipaddress
import logging
import math
import socket
from collections.abc import Callable
from contextlib import suppress

from product_mil.cli.console import command, shown_messages
from product_mil.cli.flags import add_checkpoint_flag
from product_mil.cli.imports import add_import_flag
from product_mil.cli.parser import CommandParser
from product_mil.errors import UserError

EXTRA = ("fastapi", "multipart", "prometheus_client", "python_multipart", "uvicorn")


@command()
def main(argv: list[str] | None = None) -> None:
    """Parse the arguments, take the port, open the models, serve."""
    parser = CommandParser("serve", __doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="a trained run")
    parser.add_argument("--beside", metavar="DIR", help="a second one, to compare answers with")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine")
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="default: 8000")
    parser.add_argument(
        "--examples",
        metavar="DATA",
        help="products for the page (default: validation products of --model, where at hand)",
    )
    for name, kind, default, metavar, about in (
        ("max_images", int, 8, "N", "of a product, that are taken (default: 8)"),
        ("max_products", int, 64, "N", "of a request (default: 64)"),
        ("max_image_mb", float, 20.0, "MB", "of an image (default: 20)"),
        ("max_request_mb", float, 64.0, "MB", "of a request (default: 64)"),
        ("wait_s", float, 30.0, "S", "that a request may wait for its turn (default: 30)"),
    ):
        parser.add_argument(
            f"--{name}", type=_above_0(kind), default=default, metavar=metavar, help=about
        )
    add_checkpoint_flag(parser)
    add_import_flag(parser)
    args = parser.parse_args(argv)
    try:
        from product_mil.serve.server import bind
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise UserError(
            f"serve needs {error.name}, which is not installed: pip install 'product_mil[serve]'"
        ) from None
    with bind(args.host, args.port) as bound:
        if not _is_loopback(args.host):
            logging.getLogger(__name__).warning(
                "--host %s: others can reach this server, and it asks nobody for a password",
                args.host,
            )
        _serve(args, bound)


def _serve(args: argparse.Namespace, bound: socket.socket) -> None:
    # JAX starts here, not for a port that is taken.
    from product_mil.api import load
    from product_mil.devices.runtime import configure_jax
    from product_mil.serve.examples import examples_of
    from product_mil.serve.limits import MEGA, Limits
    from product_mil.serve.server import address_of, serve
    from product_mil.serve.service import Service

    configure_jax()
    limits = Limits(
        images=args.max_images,
        products=args.max_products,
        image_bytes=int(args.max_image_mb * MEGA),
        body_bytes=int(args.max_request_mb * MEGA),
        wait_s=args.wait_s,
    )
    models = [load(each, args.checkpoint) for each in (args.model, args.beside) if each]
    examples = examples_of(models[0], args.examples, limits)
    loaded = "\n".join(f"serving {each.summary}" for each in models)
    print(f"{loaded}\nopen {address_of(bound)}; it answers when the model is compiled", flush=True)
    with shown_messages(logging.WARNING, "uvicorn", logging.WARNING):
        serve(Service(models, examples, limits), bound)
    print("stopped; everything that was asked is answered")


def _port(text: str) -> int:
    if not 0 <= (port := int(text)) < 1 << 16:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to 65535")
    return port


def _above_0(kind: Callable[[str], float]) -> Callable[[str], float]:
    def number(text: str) -> float:
        if not 0 < (value := kind(text)) < math.inf:
            raise argparse.ArgumentTypeError(f"{text}: must be above 0")
        return value

    return number


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
