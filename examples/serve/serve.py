"""A photograph is POSTed, and what it shows comes back as JSON: an ONNX file that headstart wrote, behind HTTP.

    pip install "headstart[onnx]" fastapi uvicorn
    python serve.py flowers.onnx --port 8000
    curl --data-binary @rose.jpg http://127.0.0.1:8000/predict

* Nothing comes in without a bound. Bytes are counted as they arrive, and have to arrive in time; pixels are
  counted from the picture's header, before any is decoded.
* Nothing queues up without end. So many photographs are worked on at once, so many wait, and who comes then is
  told to come again (503). A place is taken before the first byte is read, so the memory has a bound as well.
* The event loop moves bytes and does nothing else. Decoding and the network run in threads, and both release
  Python's lock; all of them share one session.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Query, Request
from starlette.requests import ClientDisconnect

import headstart as hs

LOG = logging.getLogger("uvicorn.error")
MAX_PIXELS = "HEADSTART_MAX_PIXELS"


@dataclass(frozen=True)
class Limits:
    """What is taken in."""

    nbytes: int = 10 << 20
    """of a photograph's file"""
    pixels: int = 25_000_000
    seconds: float = 10.0
    """in which a photograph has to arrive"""
    at_once: int = 2
    """photographs that are worked on"""
    waiting: int = 32
    """photographs that may wait for that, or are arriving"""


def service(model: hs.OnnxModel, limits: Limits) -> FastAPI:
    """`POST /predict`, the bytes of an image file as the body, and `GET /health`."""
    os.environ[MAX_PIXELS] = str(limits.pixels)
    workers = ThreadPoolExecutor(limits.at_once, thread_name_prefix="predict")
    busy = 0

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        workers.shutdown(cancel_futures=True)

    app = FastAPI(title=f"headstart: {model.name}", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        about = {"model": model.name, "task": model.task, "classes": len(model.classes)}
        return {"status": "ok", **about, "verified": model.verified is not None, "busy": busy}

    @app.post("/predict")
    async def predict(request: Request, top: int = Query(5, ge=1, le=1000)) -> dict[str, Any]:
        nonlocal busy
        if busy >= limits.at_once + limits.waiting:
            raise HTTPException(503, "too many photographs are waiting", headers={"Retry-After": "1"})
        busy += 1
        try:
            photograph = await arrived(request, limits)
            return await asyncio.get_running_loop().run_in_executor(workers, shown, model, photograph, top)
        finally:
            busy -= 1

    return app


async def arrived(request: Request, limits: Limits) -> bytes:
    """The body of a request. 413 where it is too large, 408 where it does not come, 422 where there is none."""
    too_large = HTTPException(413, f"a photograph may have {limits.nbytes:,} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.nbytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.nbytes:
                    raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "the photograph broke off") from None  # which nobody will read
    except TimeoutError:
        raise HTTPException(408, f"the photograph did not arrive within {limits.seconds:g} s") from None
    if not body:
        raise HTTPException(422, "there is no photograph; expected the bytes of an image file as the body")
    return bytes(body)


def shown(model: hs.OnnxModel, photograph: bytes, top: int) -> dict[str, Any]:
    """What a photograph shows, as `headstart predict --json` says it. 422 where it is none that can be read."""
    try:
        (row,) = model.classify([photograph], top=top if model.task == "single" else 1).as_list()
    except hs.errors.ImageError as error:
        raise HTTPException(422, f"the photograph {error.reason}") from None
    return {key: value for key, value in row.items() if key != "image"}


def checked(model: hs.OnnxModel) -> hs.OnnxModel:
    """The model, after a first picture, which takes longest. Weights that are damaged are an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", hs.errors.DivergedWarning)
        model.predict([np.zeros((64, 64, 3), np.uint8)])
    if model.verified is None:
        LOG.warning("%s was not held to its run as it was exported", model.path)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="the ONNX file that `headstart export` wrote")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for whoever reaches this machine")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-bytes", type=int, default=Limits.nbytes)
    parser.add_argument("--max-pixels", type=int, default=Limits.pixels)
    parser.add_argument(
        "--seconds", type=float, default=Limits.seconds, help="in which a photograph has to arrive"
    )
    parser.add_argument("--at-once", type=int, default=Limits.at_once, help="photographs that are worked on")
    parser.add_argument("--waiting", type=int, default=Limits.waiting, help="and that may wait for that")
    args = parser.parse_args()
    limits = Limits(args.max_bytes, args.max_pixels, args.seconds, args.at_once, args.waiting)
    try:
        app = service(checked(hs.OnnxModel(args.model)), limits)
    except (hs.HeadstartError, hs.errors.DivergedWarning) as error:
        parser.error(str(error))
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        # Connections beyond those that have a place, and some to be told so, are turned away before they are read.
        limit_concurrency=2 * (limits.at_once + limits.waiting) + 16,
        timeout_graceful_shutdown=10,
    )


if __name__ == "__main__":
    main()
