"""A server of S3's protocol on loopback, for tests: moto's, in a thread of this process."""

from __future__ import annotations

import contextlib
import os
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from unittest.mock import patch

BUCKET = "photos"


@dataclass(frozen=True)
class ObjectServer:
    """A running server with one empty bucket. The environment says how obstore reaches it."""

    url: str
    """of the bucket: `s3://photos`"""
    endpoint: str
    """`http://127.0.0.1:PORT`"""


def environment(endpoint: str) -> dict[str, str]:
    """What S3's clients read: where the server is, and credentials that mean nothing."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret-value",
    }


@contextlib.contextmanager
def served() -> Iterator[ObjectServer]:
    """A server of its own, ended afterwards; the environment is this server's meanwhile."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        for request in (
            urllib.request.Request(f"{endpoint}/moto-api/reset", method="POST"),
            urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT"),
        ):
            urllib.request.urlopen(request, timeout=30).close()
        with patch.dict(os.environ, environment(endpoint)):
            yield ObjectServer(url=f"s3://{BUCKET}", endpoint=endpoint)
    finally:
        server.stop()
