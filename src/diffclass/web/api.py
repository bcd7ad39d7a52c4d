"""The JSON API: what can be asked, under /api/v1."""

import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.types import Receive, Scope, Send

import diffclass
from diffclass.data.images import Prepared
from diffclass.decide.classifier import DiffusionClassifier
from diffclass.errors import DiffclassError, RangeError
from diffclass.evidence import Evidence
from diffclass.robust import Certification, Smoothing
from diffclass.web.desk import ClientGone, Desk, Place, certificate_steps, seen
from diffclass.web.explaining import can_explain, check_explain, explanation
from diffclass.web.pictures import FORMATS
from diffclass.web.samples import find_sample, samples
from diffclass.web.telling import answer_row, event, look_row
from diffclass.web.worker import Job

__all__ = ["EventStream", "build_router", "status_of"]

Model = Annotated[str, Query(description="Name of a model, as /models lists them.", max_length=200)]
Labels = Annotated[
    list[str], Query(alias="label", description="Choose among these; repeat the parameter. All classes if left out.")
]
Sample = Annotated[str | None, Query(description="A sample in place of a body, as /samples lists them.")]
Fit = Annotated[Literal["crop", "stretch", "refuse"], Query(description="For pictures of another size.")]
Convert = Annotated[bool, Query(description="Allow colour to become grey, grey colour, transparent white.")]
Tell = Callable[[Any], dict[str, Any]]

_PICTURE = {
    "requestBody": {
        "description": f"The picture file itself ({', '.join(FORMATS)}), unless `sample` names one.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_EVENTS = "With `Accept: text/event-stream` the answer comes as server-sent events while the work goes on: "
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": f'{text} The body is {{"error": a sentence}}.'}
    for status, text in {
        401: "The token is missing or wrong.",
        403: "The Host or the Origin is not this server's.",
        404: "There is no such model.",
        413: "The picture file is too large.",
        422: "The picture or a parameter cannot be used.",
        503: "The server has as much to do as it takes; Retry-After says when to come back.",
    }.items()
}


def status_of(error: DiffclassError) -> int:
    """Return the HTTP status that says of what kind an error is."""
    kinds = {
        diffclass.errors.Busy: 503, diffclass.errors.MissingExtra: 501, diffclass.errors.WeightsMissing: 404,
        diffclass.errors.InputError: 422,
    }  # fmt: skip
    return next((status for kind, status in kinds.items() if isinstance(error, kind)), 500)


class EventStream(Response):
    """Server-sent events; whatever ends the response ends what it tells of.

    Args:
        events: encoded.
    """

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they come."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with aclosing(self._events) as events:
            async for one in events:
                await send({"type": "http.response.body", "body": one, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def build_router(desk: Desk) -> APIRouter:
    """Return the routes of one server."""
    router = APIRouter(prefix="/api/v1", responses=_PROBLEMS)
    _add_facts(router, desk)
    _add_classify(router, desk)
    _add_certify(router, desk)
    _add_explain(router, desk)
    return router


def _add_facts(router: APIRouter, desk: Desk) -> None:
    """Add what can be asked without work."""

    @router.get("/healthz", summary="Whether the server lives, and how busy it is.")
    async def healthz() -> dict[str, Any]:
        return {"status": "ok", "version": diffclass.__version__, **desk.in_hand}

    @router.get("/models", summary="The models served here, and the limits of a request.")
    async def models() -> dict[str, Any]:
        limits = desk.limits
        bounds = {name: getattr(limits, name) for name in ("upload", "pixels", "copies", "labels")}
        facts = {"limits": bounds, "formats": list(FORMATS), "explain": can_explain()}
        return {"models": desk.offer.models, **facts}

    @router.get("/samples", summary="Pictures to try the models with.")
    def list_samples() -> dict[str, Any]:
        served = {model["name"] for model in desk.offer.models}
        rows = [{"name": one.name, "truth": one.truth, "model": one.model if one.model in served else None}
                for one in samples().values()]  # fmt: skip
        return {"samples": rows}

    @router.get("/samples/{name}", summary="One of them, as a PNG file.", response_class=Response)
    def sample(name: str) -> Response:
        return Response(find_sample(name).content, media_type="image/png")


def _add_classify(router: APIRouter, desk: Desk) -> None:
    """Add answers."""

    @router.post("/classify", summary="Say what is in a picture.", openapi_extra=_PICTURE,
                 description=f"{_EVENTS}`picture`, `look` as the race goes on, `answer` or `error`.")  # fmt: skip
    async def classify(
        request: Request, model: Model, labels: Labels = [],  # noqa: B006
        sample: Sample = None, resize: Fit = "crop", convert: Convert = False,
    ) -> Response:  # fmt: skip
        async def begin(place: Place) -> Response:
            started = time.monotonic()
            classifier, prepared = await _prepare(desk, request, model, labels, sample, resize, convert)
            job = Job()

            def follow(evidence: Evidence, survivors: np.ndarray) -> None:
                job.tell("look", look_row(evidence, survivors))

            desk.worker.race(classifier, prepared.image, job, follow if _wants_events(request) else None)
            tell = partial(answer_row, classifier=classifier, prepared=prepared, model=model, started=started)
            return await _respond(desk, request, job, place, prepared, kind="answer", tell=tell)

        return await _placed(desk, "race", begin)


def _add_certify(router: APIRouter, desk: Desk) -> None:
    """Add certificates."""

    @router.post("/certify", summary="Prove within which radius no change of a picture alters its label.",
                 openapi_extra=_PICTURE,
                 description=f"{_EVENTS}`picture`, `progress` now and then, `certificate` or `error`.")  # fmt: skip
    async def certify(
        request: Request, model: Model, labels: Labels = [],  # noqa: B006
        sample: Sample = None, resize: Fit = "crop", convert: Convert = False, sigma: float = 0.25, n: int = 1000,
        n0: int | None = None, alpha: float = 0.001, radius: float | None = None,
        noised: Literal["epndc", "apndc", "apndc-class", "exact"] | None = None,
    ) -> Response:  # fmt: skip
        async def begin(place: Place) -> Response:
            started = time.monotonic()
            settings = _smoothing(desk, n=n, n0=n0, alpha=alpha, radius=radius)
            classifier, prepared = await _prepare(desk, request, model, labels, sample, resize, convert)
            copies = await desk.copies(classifier, sigma=sigma, noised=noised, settings=settings)
            work, job = Certification(copies, prepared.image, settings, seed=classifier.seed), Job()
            desk.worker.work(certificate_steps(work, job), job)

            def tell(done: Certification) -> dict[str, Any]:
                more = {"classes": list(copies.classes), "changes": list(prepared.changes)}
                seconds = time.monotonic() - started
                return {"model": model, **done.certificate().row(), **more, "seconds": seconds}

            return await _respond(desk, request, job, place, prepared, kind="certificate", tell=tell)

        return await _placed(desk, "steps", begin)


def _add_explain(router: APIRouter, desk: Desk) -> None:
    """Add explanations."""

    @router.post("/explain", summary="Show why a picture gets its label.", openapi_extra=_PICTURE,
                 responses={501: {"description": "This installation cannot explain."}})  # fmt: skip
    async def explain(
        request: Request, model: Model, labels: Labels = [],  # noqa: B006
        sample: Sample = None, resize: Fit = "crop", convert: Convert = False, toward: str | None = None,
    ) -> Response:  # fmt: skip
        async def begin(place: Place) -> Response:
            check_explain()
            classifier, prepared = await _prepare(desk, request, model, labels, sample, resize, convert)
            job = Job()
            desk.worker.work(explanation(classifier, prepared.image, toward), job)
            return await _respond(desk, request, job, place, prepared, kind="explanation", tell=dict)

        return await _placed(desk, "steps", begin)


def _smoothing(desk: Desk, *, n: int, n0: int | None, alpha: float, radius: float | None) -> Smoothing:
    settings = Smoothing(n0=(100 if radius is None else 20) if n0 is None else n0, n=n, alpha=alpha, radius=radius)
    if settings.n0 + settings.n > desk.limits.copies:
        raise RangeError(
            f"The 'n' and 'n0' parameters of certify may be {desk.limits.copies:,} together on this server. "
            f"Got {settings.n0 + settings.n:,}."
        )
    return settings


async def _placed(desk: Desk, kind: str, begin: Callable[[Place], Awaitable[Response]]) -> Response:
    """Answer a request that has a place; it is given back if nothing comes of it."""
    place = desk.take(kind)
    try:
        return await begin(place)
    except ClientGone:
        place.give_back()
        return Response(status_code=499)  # nobody reads it
    except BaseException:
        place.give_back()
        raise


async def _prepare(
    desk: Desk, request: Request, model: str, labels: list[str], sample: str | None,
    resize: Literal["crop", "stretch", "refuse"], convert: bool,
) -> tuple[DiffusionClassifier, Prepared]:  # fmt: skip
    """Read what was sent, and find what it is for."""
    content = await desk.content(request, sample)
    classifier = await desk.classifier(model, labels)
    return classifier, await desk.prepare(content, classifier, resize=resize, convert=convert)


async def _respond(
    desk: Desk, request: Request, job: Job, place: Place, prepared: Prepared, *, kind: str, tell: Tell
) -> Response:
    """Answer with the result as JSON, or with events on the way to it."""
    if not _wants_events(request):
        return JSONResponse(tell(await desk.result(request, job, place)))
    return EventStream(_events(desk, request, job, place, prepared, kind, tell))


def _wants_events(request: Request) -> bool:
    return "text/event-stream" in request.headers.get("accept", "")


async def _events(
    desk: Desk, request: Request, job: Job, place: Place, prepared: Prepared, kind: str, tell: Tell
) -> AsyncGenerator[bytes, None]:
    """Encode what happens to a job."""
    async with aclosing(desk.follow(request, job, place)) as following:
        try:
            yield event("picture", seen(prepared))
            async for what, data in following:
                yield event(kind, tell(data)) if what == "done" else event(what, data)
        except ClientGone:
            return
        except DiffclassError as error:
            yield event("error", {"error": str(error), "status": status_of(error)})
        except Exception:
            yield event("error", {"error": "Something went wrong in the server; its log says what.", "status": 500})
