"""The application: the API, the page, and errors as one sentence."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import diffclass
from diffclass.errors import Busy, DiffclassError
from diffclass.web.api import build_router, status_of
from diffclass.web.desk import Desk
from diffclass.web.gate import Gate
from diffclass.web.limits import Limits
from diffclass.web.offer import Offer

__all__ = ["create_app"]

_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/race.js": ("race.js", "text/javascript"),
    "/talk.js": ("talk.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


def create_app(
    offer: Offer, *, limits: Limits | None = None, token: str | None = None, hosts: Iterable[str] = ()
) -> FastAPI:
    """Return an ASGI application that serves some models.

    Args:
        offer: the models.
        limits: of what is taken in.
        token: that requests to the API must bear; None: none.
        hosts: names by which the server may be called, besides "localhost" and addresses.
    """
    limits = limits or Limits()
    desk = Desk(offer, limits)

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        desk.worker.start()
        yield
        desk.worker.close(timeout=5.0)

    app = FastAPI(
        title="diffclass", version=diffclass.__version__, lifespan=living, openapi_url="/api/v1/openapi.json",
        docs_url=None, redoc_url=None, description="Conditional diffusion models as image classifiers.",
    )  # fmt: skip
    app.include_router(build_router(desk))
    app.add_middleware(Gate, limits=limits, token=token, hosts=hosts)
    _add_page(app, desk)
    _add_errors(app, desk)
    return app


def _add_page(app: FastAPI, desk: Desk) -> None:
    """Serve the files of the page, which are read once."""
    folder = files("diffclass.web") / "static"
    for path, (name, kind) in _PAGE.items():
        content = (folder / name).read_bytes()
        app.add_api_route(path, _constant(content, kind), include_in_schema=False, response_class=Response)

    @app.get("/healthz", include_in_schema=False)
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "version": diffclass.__version__, **desk.in_hand}


def _constant(content: bytes, kind: str) -> Any:
    """Return an endpoint that always answers the same."""

    async def page() -> Response:
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return page


def _add_errors(app: FastAPI, desk: Desk) -> None:
    """Answer every error with {"error": one sentence}."""

    @app.exception_handler(DiffclassError)
    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, DiffclassError)
        headers = {"retry-after": str(desk.wait())} if isinstance(error, Busy) else {}
        return JSONResponse({"error": str(error)}, status_code=status_of(error), headers=headers)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        sentences = {404: f"There is nothing at {request.url.path[:80]!r}.",
                     405: f"{request.method} is not for {request.url.path[:80]!r}."}  # fmt: skip
        sentence = sentences.get(error.status_code, error.detail)
        return JSONResponse({"error": sentence}, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"error": _sentence(error)}, status_code=422)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": "Something went wrong in the server; its log says what."}, status_code=500)


def _sentence(error: RequestValidationError) -> str:
    """Say of the first parameter that is wrong what was wanted and what came."""
    first = error.errors()[0]
    name = first["loc"][-1]
    if first["type"] == "missing":
        return f"The {name!r} parameter is missing."
    wanted = first["msg"].removeprefix("Input should be ")
    return f"The {name!r} parameter must be {wanted[0].lower()}{wanted[1:]}. Got {str(first.get('input'))[:80]!r}."
