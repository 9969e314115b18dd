"""The service as an app for any ASGI server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from product_mil.serve.limits import Refused
from product_mil.serve.middleware import Watched
from product_mil.serve.reading import one_line
from product_mil.serve.routes import PAGE, about_routes, operator_routes, predict_routes
from product_mil.serve.service import Service
from product_mil.version import __version__


def create_app(service: Service) -> FastAPI:
    """An app that starts the service and ends it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title="product_mil",
        version=__version__,
        summary="Product categories from all the images of a product, jointly.",
        docs_url=None,  # these pages load scripts of other hosts
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={
            Refused: _refuse,
            RequestValidationError: _refuse_field,
            405: _refuse_method,
        },
    )
    app.add_middleware(Watched, service=service)
    for routes in (predict_routes, about_routes, operator_routes):
        app.include_router(routes(service))
    app.mount("/page", StaticFiles(directory=PAGE, check_dir=False))
    return app


async def _refuse(_: Request, refused: Exception) -> JSONResponse:
    assert isinstance(refused, Refused)
    return JSONResponse({"detail": refused.line}, refused.status, refused.headers)


async def _refuse_field(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return JSONResponse({"detail": one_line(error.errors())}, 422)


async def _refuse_method(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    headers = error.headers or {"Allow": "GET, HEAD"}  # the files of the page name none
    allowed = " or ".join(sorted(headers["Allow"].split(", ")))
    return JSONResponse(
        {"detail": f"{request.method} is not answered: use {allowed}"}, 405, headers
    )
