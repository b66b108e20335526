"""The proxy that tests of remote stores put before their server does what it says."""

from __future__ import annotations

import pytest

from headstart.common.errors import RemoteError, RemoteNotFoundError, RemoteRefusedError
from headstart.common.objects import open_objects

pytestmark = pytest.mark.neutral

CONTENT = bytes(range(256)) * 4096


@pytest.fixture
def objects(proxy, monkeypatch):
    proxy.rule = lambda request: None
    monkeypatch.setattr("headstart.common.objects.RETRIES", 1)
    objects = open_objects("s3://photos/some")
    objects.put("one", CONTENT)
    proxy.forget()
    return objects


def once(fault: str):
    return lambda request: fault if request.number == 0 else None


def test_without_faults_it_passes_on(objects, proxy):
    assert objects.get("one", limit=1 << 20) == CONTENT
    assert [entry.name for entry in objects.entries()] == ["one"]
    assert objects.get_range("one", 255, 3) == b"\xff\x00\x01"
    assert [request.is_listing for request in proxy.requests] == [False, True, False]
    with pytest.raises(RemoteNotFoundError):
        objects.get("two", limit=5)


@pytest.mark.parametrize("fault", ["drop", "500", "503"])
def test_what_may_go_better_is_tried_again(objects, proxy, fault):
    proxy.rule = once(fault)
    objects.put("two", b"2")
    proxy.rule = lambda request: None
    assert objects.get("two", limit=5) == b"2"
    proxy.forget()
    proxy.rule = once(fault)
    assert objects.get("one", limit=1 << 20) == CONTENT
    assert len(proxy.requests) == 2


def test_what_an_answer_can_suffer(objects, proxy):
    for fault in ("short", "flip"):
        proxy.rule = lambda request, fault=fault: fault
        try:
            content = objects.get("one", limit=1 << 20)
        except RemoteError as error:
            assert fault == "short" and "s3://photos/some/one: " in str(error)
        else:
            assert content != CONTENT
    proxy.rule = lambda request: "cut"
    with pytest.raises(RemoteError, match=r"s3://photos/some/one: "):
        objects.get("one", limit=1 << 20)
    proxy.rule = lambda request: "403"
    with pytest.raises(RemoteRefusedError, match=r"s3://photos/some/two: access was refused"):
        objects.put("two", b"")
    proxy.rule = lambda request: "gone"
    with pytest.raises(RemoteNotFoundError):
        objects.get("one", limit=1 << 20)


def test_listings_can_be_old(objects, proxy):
    old = [entry.name for entry in objects.entries()]
    objects.put("three", b"3")
    proxy.rule = lambda request: "stale"
    assert [entry.name for entry in objects.entries()] == old
    proxy.rule = lambda request: None
    assert [entry.name for entry in objects.entries()] == sorted({*old, "three"})
