"""How many requests an object store is asked, over a network that takes its time: counted by the server."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
from object_server import BUCKET, environment

from headstart.common.objects import open_objects

pytestmark = pytest.mark.skipif("HEADSTART_MACHINES" not in os.environ, reason="run by tox -e machines")


def test_a_listing_is_one_request_for_a_thousand_objects():
    from snailmail import Fixed, ObjectStore

    with (
        ObjectStore(bucket=BUCKET, latency=Fixed(20)) as server,
        patch.dict(os.environ, environment(server.endpoint_url)),
    ):
        objects = open_objects(f"s3://{BUCKET}/cache")
        names = [f"{number:04d}" for number in range(1001)]
        for name in names:
            objects.put(name, b"")
        server.reset_counts()
        assert [entry.name for entry in objects.entries()] == names
        assert server.stats()["n_requests"] == 2
        assert [entry.name for entry in objects.entries(offset="0998")] == ["0999", "1000"]
