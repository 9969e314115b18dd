"""The routes of the service, each with its description for OpenAPI."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from product_mil.serve import schema
from product_mil.serve.limits import Refused
from product_mil.serve.reading import FORM, JSON
from product_mil.serve.service import Service

PAGE = Path(__file__).parent / "page"
_REFUSALS = {
    400: "The body is damaged",
    404: "There is no such thing",
    408: "The request arrives too slowly",
    413: "More bytes or pixels than the server takes",
    415: "Neither JSON nor a form",
    422: "A field is missing or wrong",
    429: "Too busy: try again after `Retry-After`",
    503: "The server starts or stops",
}
_BODY = {
    "required": True,
    "content": {
        JSON: {"schema": schema.PredictRequest.model_json_schema()},
        FORM: {"schema": schema.PredictForm.model_json_schema()},
    },
}


def predict_routes(service: Service) -> APIRouter:
    """Questions about products."""
    router = APIRouter()

    @router.post(
        "/v1/predict",
        response_model=schema.PredictAnswer,
        responses=_refusals(400, 408, 413, 415, 422, 429, 503),
        openapi_extra={"requestBody": _BODY},
    )
    async def predict(request: Request) -> Response:
        """Classify products by their images.

        One product as a form with its image files, or several as JSON with images in base64. An
        image that cannot be read costs that image alone, and its `error` says why.
        """
        return _json(await service.predict(request))

    return router


def about_routes(service: Service) -> APIRouter:
    """What the server holds: models, categories, examples."""
    router = APIRouter()

    @router.get("/v1/model", response_model=schema.ModelAnswer, responses=_refusals(503))
    async def model() -> Response:
        """The model, the second one if there is one, and the limits of requests."""
        return _json(service.describe())

    @router.get("/v1/categories", response_model=schema.CategoriesAnswer, responses=_refusals(422))
    async def categories(
        query: Annotated[str, Query(description="text in the id or the path")] = "",
        limit: Annotated[int, Query(ge=0, le=10_000)] = 100,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> Response:
        """Categories that the model knows, in the order of their ids."""
        found = service.words.search(query)
        shown = found[offset : offset + limit]
        return _json(schema.CategoriesAnswer(categories=shown, total=len(found)))

    offered = {
        f"/v1/examples/{number}/{index}.jpg": image
        for number, product in enumerate(service.examples)
        for index, image in enumerate(product.images)
    }

    @router.get("/v1/examples", response_model=schema.ExamplesAnswer)
    async def examples() -> Response:
        """Products to try the model on; there may be none."""
        found = tuple(
            schema.Example(
                number=number,
                id=product.id,
                names=product.names,
                images=tuple(path for path in offered if path.split("/")[3] == str(number)),
            )
            for number, product in enumerate(service.examples)
        )
        return _json(schema.ExamplesAnswer(examples=found))

    @router.get("/v1/examples/{number}/{name}", response_class=Response, responses=_refusals(404))
    async def example_image(request: Request) -> Response:
        """An image of an example; it is called .jpg whatever its format."""
        if (image := offered.get(request.scope["path"])) is None:
            raise Refused(404, "there is no such image; /v1/examples lists them")
        return Response(image.data, media_type=image.media_type)

    return router


def operator_routes(service: Service) -> APIRouter:
    """What those who run the server ask, and the page."""
    router = APIRouter()

    @router.get("/health", response_model=schema.Health, responses=_refusals(503))
    async def health() -> Response:
        """Whether questions are answered: 503 while the model is being compiled."""
        service.refuse_while_starting()
        return _json(schema.Health(status="ready"))

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """The meters, for Prometheus."""
        return Response(generate_latest(service.meters.registry), media_type=CONTENT_TYPE_LATEST)

    @router.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    return router


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": schema.Refusal, "description": _REFUSALS[status]} for status in statuses
    }


def _json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type=JSON)
