"""What `headstart cache` says of stores behind URLs, and how its arguments name one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.cli.rendering import show
from headstart.cli.results import write_figures
from headstart.common.errors import SettingError
from headstart.common.objects import is_url
from headstart.common.text import counted, nbytes_text, printable, say, when

if TYPE_CHECKING:
    from headstart.features.remote_cache import RemoteCleaning
    from headstart.store.moving.moves import Moves
    from headstart.store.remote.looking import RemoteVerifyReport


def keys_and_url(places: Sequence[str]) -> tuple[list[str], str]:
    """SettingError unless there is one URL."""
    urls = [place for place in places if is_url(place)]
    if len(urls) != 1:
        raise SettingError(
            f"received {len(urls) or 'no'} URLs; expected one, such as s3://bucket/prefix or file:///folder, "
            "behind keys or alone"
        )
    return [place for place in places if not is_url(place)], urls[0]


def key_and_url(places: Sequence[str]) -> tuple[str | None, str | None]:
    """One of each at most; SettingError for more."""
    urls = [place for place in places if is_url(place)]
    keys = [place for place in places if not is_url(place)]
    for many, what in ((keys, "keys"), (urls, "URLs")):
        if len(many) > 1:
            raise SettingError(f"received {len(many)} {what}: {', '.join(many)}; expected one, or none")
    return next(iter(keys), None), next(iter(urls), None)


def one_url(place: str) -> str:
    """SettingError for what is none."""
    if not is_url(place):
        raise SettingError(f"{place!r} is no URL; expected one, such as s3://bucket/prefix")
    return place


def tell_moves(moves: Moves, json_file: Path | None) -> int | None:
    """Say what has moved, or would move; the exit code."""
    if moves.trunks:
        show(moves.as_table())
    to = "to" if moves.what == "push" else "from"
    there = "there" if moves.what == "push" else "here"
    already = sum(trunk.there for trunk in moves)
    had = f"{already:,} {'was' if already == 1 else 'were'} {there} already"
    if moves.dry_run:
        size = nbytes_text(moves.nbytes)
        say(f"would {moves.what} {counted(moves.lacking, 'shard')} ({size}) {to} {moves.url}; {had}")
    else:
        size = nbytes_text(moves.moved_nbytes)
        gone = f", {moves.gone:,} had vanished" if moves.gone else ""
        say(f"{moves.what}ed {counted(moves.moved, 'shard')} ({size}) {to} {moves.url}; {had}{gone}")
    for where, reason in moves.failures:
        say(f"not {moves.what}ed: {printable(where)}: {printable(reason)}", err=True)
    if moves.untried:
        say(f"not tried: {counted(moves.untried, 'shard')}; the same command goes on with them", err=True)
    write_figures(json_file, moves.as_dict())
    return None if moves.complete else 1


def tell_verified_there(report: RemoteVerifyReport, json_file: Path | None) -> int | None:
    """Say what was found; the exit code."""
    for where, reason in report.damaged:
        say(f"damaged: {printable(where)}: {printable(reason)}")
    say(f"{report.rows:,} rows in {report.shards:,} shards verified, {len(report.damaged)} damaged")
    for where, reason in report.unreadable:
        say(f"cannot be read: {printable(where)}: {printable(reason)}")
    write_figures(json_file, report.as_dict())
    return None if report else 1


def tell_cleaning(cleaning: RemoteCleaning, grace: str, json_file: Path | None) -> int | None:
    """Say what goes, or has gone; the exit code."""
    for trunk in cleaning:
        parts = [counted(len(trunk.shards), "shard")] if trunk.shards else []
        if indexes := len(trunk.superseded) + len(trunk.indexes):
            parts.append(f"{indexes:,} index object{'' if indexes == 1 else 's'}")
        parts += ["trunk.json"] if trunk.description is not None else []
        verb = "would delete" if cleaning.freed is None else "deleting"
        staying = f"; {counted(trunk.staying, 'shard')} too young" if trunk.staying else ""
        say(
            f"{verb} {trunk.key[:12]}  {trunk.hint('model')} at {trunk.hint('cut')}, {', '.join(parts)}, "
            f"{nbytes_text(trunk.nbytes)}, last written {when(trunk.written)}{staying}"
        )
    if cleaning.freed is not None:
        say(f"{nbytes_text(cleaning.freed)} freed in {cleaning.url}")
    else:
        say(
            f"nothing was deleted in {cleaning.url}; add --yes to do it"
            if len(cleaning)
            else f"nothing in {cleaning.url} is older than {grace}"
        )
    for where, reason in cleaning.failures:
        say(f"not deleted: {printable(where)}: {printable(reason)}", err=True)
    write_figures(json_file, cleaning.as_dict())
    return 1 if cleaning.failures else None
