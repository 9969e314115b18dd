"""Read what a request asks, within the limits; what is too much is refused while it arrives."""

import asyncio
import binascii
import difflib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from product_mil.data.decode import MAX_PIXELS, num_pixels
from product_mil.serve.limits import BUSY_S, MEGA, Limits, Refused
from product_mil.serve.schema import AskedProduct, Options, PredictForm, PredictRequest
from product_mil.sources.ids import Id

JSON, FORM = "application/json", "multipart/form-data"
_MAX_SAID = 3  # of the mistakes in a request


class Asked(NamedTuple):
    """A request that was read: the id and the image files of each product, and the options."""

    ids: list[Id | None]
    products: list[list[bytes]]
    options: Options


class Intake:
    """Reads requests, and knows how many bytes of them are in memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._held_bytes = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[Asked]:
        """What the request asks; its bytes count as held until the body of `with` ends.

        Raises:
            Refused: it is too large, too slow, or not as `schema` describes it.
        """
        body = _Body(self, request)
        try:
            try:
                async with asyncio.timeout(self._limits.read_s):
                    asked = await self._parse(request, body)
            except TimeoutError:
                limit = f"{self._limits.read_s:g} s"
                raise Refused(408, f"the request did not arrive within {limit}") from None
            except ClientDisconnect:
                raise Refused(400, "the client went away") from None
            await asyncio.to_thread(self._check, asked.products)
            yield asked
        finally:
            self._held_bytes -= body.held_bytes

    def hold(self, num_bytes: int) -> None:
        """Count more bytes as held.

        Raises:
            Refused: other requests hold so many that there is no room.
        """
        limits = self._limits
        if self._held_bytes + num_bytes > limits.bodies * limits.body_bytes:
            raise Refused(429, "too many requests at once; try again later", BUSY_S)
        self._held_bytes += num_bytes

    async def _parse(self, request: Request, body: "_Body") -> Asked:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if kind not in (JSON, FORM):
            raise Refused(415, f"content-type is {kind or 'missing'}: send {JSON} or {FORM}")
        if coding != "identity":
            raise Refused(415, f"content-encoding is {coding}: send the request uncompressed")
        if kind == JSON:
            return _from_json(b"".join([chunk async for chunk in body.chunks()]))
        return await _from_form(request, body.chunks(), self._limits.body_bytes)

    def _check(self, products: list[list[bytes]]) -> None:
        limits = self._limits
        if not 1 <= len(products) <= limits.products:
            raise Refused(422, f"{len(products)} products: send 1 to {limits.products}")
        for number, images in enumerate(products):
            if not 1 <= len(images) <= limits.images:
                few = f"send 1 to {limits.images}"
                raise Refused(422, f"product {number} has {len(images)} images: {few}")
            for index, image in enumerate(images):
                if len(image) > limits.image_bytes:
                    raise Refused(
                        413,
                        f"image {index} of product {number} has {len(image)} bytes, more than "
                        f"{limits.image_bytes}: send a smaller copy",
                    )
        counts = [num_pixels(image) for images in products for image in images]
        pixels = sum(count for count in counts if count <= MAX_PIXELS)  # others are not decoded
        if pixels > limits.pixels:
            raise Refused(
                413,
                f"the images have {pixels / MEGA:.0f} megapixels together, more than "
                f"{limits.pixels / MEGA:.0f}: send fewer at a time, or smaller copies",
            )


class _Body:
    """The body of a request, refused while it arrives as soon as it is too large."""

    def __init__(self, intake: Intake, request: Request) -> None:
        self._intake, self._request = intake, request
        self.held_bytes = 0

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The parts of the body as they arrive."""
        limit, headers = self._intake._limits.body_bytes, self._request.headers
        declared = headers.get("content-length", "")
        stream = self._request.stream()
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            if "expect" not in headers:
                await self._throw_away(stream)
            raise self._too_large(limit)
        async for chunk in stream:
            if self.held_bytes + len(chunk) > limit:
                await self._throw_away(stream)
                raise self._too_large(limit)
            self._intake.hold(len(chunk))
            self.held_bytes += len(chunk)
            yield chunk

    async def _throw_away(self, stream: AsyncGenerator[bytes, None]) -> None:
        """Read as much again as is allowed: many clients see no answer until they have sent all."""
        left = self._intake._limits.body_bytes
        async for chunk in stream:
            if (left := left - len(chunk)) < 0:
                return

    @staticmethod
    def _too_large(limit: int) -> Refused:
        return Refused(413, f"the request has more than {limit} bytes: send fewer images at a time")


def _from_json(body: bytes) -> Asked:
    try:
        request = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        raise Refused(422, one_line(error.errors(), PredictRequest)) from None
    return Asked(
        ids=[product.id for product in request.products],
        products=[
            [_decoded(text, number, index) for index, text in enumerate(product.images)]
            for number, product in enumerate(request.products)
        ],
        options=request,
    )


def _decoded(text: str, number: int, index: int) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise Refused(
            422,
            f"image {index} of product {number} is no base64: encode the bytes of the file, "
            "without line breaks and without a prefix such as data:; the alphabet has + and /, not "
            "- and _; addresses of images are not fetched",
        ) from None


async def _from_form(
    request: Request, chunks: AsyncGenerator[bytes, None], spool_bytes: int
) -> Asked:
    parser = MultiPartParser(request.headers, chunks)
    parser.spool_max_size = spool_bytes  # in memory, never on disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Refused(400, f"the form is damaged: {error.message}") from None
    images: list[bytes] = []
    fields: dict[str, str] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) != (name == "images"):
                what = "text" if name == "images" else "a file"
                raise Refused(422, f"the field {name[:40]!r} is {what}: send files as images")
            if isinstance(value, UploadFile):
                images.append(await value.read())
            elif value.strip():
                fields[name] = value if name == "id" else value.strip()
    finally:
        await form.close()
    try:
        asked = PredictForm.model_validate({**fields, "images": []})
    except ValidationError as error:
        raise Refused(422, one_line(error.errors(), PredictForm)) from None
    return Asked([asked.id], [images], asked)


def one_line(errors: Sequence[Any], asked: type[BaseModel] | None = None) -> str:
    """The first of these errors of pydantic, each with its place.

    `asked` is what the request was read as; it has the names for a field that it does not know.
    """
    line = "; ".join(_mistake(error, asked) for error in errors[:_MAX_SAID])
    more = len(errors) - _MAX_SAID
    return f"{line[:350]}{f' (and {more} more)' if more > 0 else ''}"


def _mistake(error: Any, asked: type[BaseModel] | None) -> str:
    place = " ".join(".".join(map(str, error["loc"])).split())[:60]
    said = error["msg"]
    if error["type"] == "extra_forbidden" and asked is not None:
        known = list((asked if len(error["loc"]) == 1 else AskedProduct).model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1])[:60], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        said = f"no such field ({hint})"
    return f"{place}: {said}" if place else said
