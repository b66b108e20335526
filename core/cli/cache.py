"""`headstart cache`: what `hs.cache` does, told in lines and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from headstart.cli.behind_urls import (
    key_and_url,
    keys_and_url,
    one_url,
    tell_cleaning,
    tell_moves,
    tell_verified_there,
)
from headstart.cli.command import command
from headstart.cli.options import (
    DEFAULTS,
    FEATURE_OPTIONS,
    FLAT,
    SOURCE,
    BatchSize,
    Decode,
    FeatureOptions,
    Json,
    OnError,
    Size,
    Source,
    Truncated,
    Weights,
    argument,
    parameter,
    positive_number,
)
from headstart.cli.preparing import opened
from headstart.cli.rendering import show
from headstart.cli.results import write_figures
from headstart.common.errors import SettingError
from headstart.common.text import nbytes_text, printable, say, when

if TYPE_CHECKING:
    from headstart.features.recompute import RecomputeReport
    from headstart.store.upkeep import VerifyReport

Key = Annotated[str, argument("KEY", "A key, or its beginning; `headstart cache ls` lists them.")]


Url = Annotated[str | None, argument("URL", "A store behind a URL, such as s3://bucket/prefix, instead.")]


@command("headstart cache ls", "headstart cache ls s3://bucket/team")
def ls(url: Url = None, /, *, json_file: Json = None) -> None:
    """List what the cache holds, and the shared ones (HEADSTART_CACHE_SHARED).

    Of each trunk: key, model, cut, view, rows, bytes, last use, by what its features were made, where they are.
    """
    from headstart import cache

    if url is not None:
        there = cache.at(one_url(url)).list()
        show(there.as_table(), f"{nbytes_text(there.nbytes)} of features in {there.url}")
        write_figures(json_file, there.as_list())
        return
    listing = cache.list()
    own = next(iter(listing.nbytes))
    show(
        listing.as_table(),
        *(
            f"{nbytes_text(nbytes)} of features in {root}{', shared' if root != own else ''}"
            for root, nbytes in listing.nbytes.items()
        ),
    )
    write_figures(json_file, listing.as_list())


@command("headstart cache info 3f2a", "headstart cache info 3f2a s3://bucket/team")
def info(key: Key, url: Url = None, /, *, json_file: Json = None) -> None:
    """Say everything about one trunk's features."""
    from headstart import cache

    if url is not None:
        there = cache.at(one_url(url)).info(key)
        show(there.as_table())
        write_figures(json_file, {**there.as_dict(), "spec": there.spec})
        return
    copies = cache.info(key)
    show(*copies.as_tables())
    write_figures(json_file, copies.as_dict())


@command(
    "headstart cache explain --data flower_photos --model resnet50",
    "headstart cache explain --data flower_photos --model resnet50 --cuts layer3,avgpool --size 256",
    "headstart cache explain --data flower_photos --model resnet50 --augment flip,crop --views 4",
    "headstart cache explain s3://bucket/team --data flower_photos --model resnet50",
)
def explain(
    url: Url = None,
    /,
    *,
    source: Annotated[Source, FLAT] = SOURCE,
    feature_options: Annotated[FeatureOptions, FLAT] = FEATURE_OPTIONS,
    json_file: Json = None,
) -> None:
    """Say what `headstart extract` with these options would find in the cache, and why not more.

    Of samples without features it says which; of a trunk without any, in what the nearest one differs. Nothing is
    computed.
    """
    from headstart import cache

    explanation = cache.explain(
        *opened(source, feature_options.cuts),
        **feature_options.arguments(),
        url=None if url is None else one_url(url),
    )
    for coverage in explanation:
        view = "" if coverage.view is None else f", view {coverage.view}"
        say(f"{coverage.cut}{view} ({coverage.key[:12]}): {coverage}")
    write_figures(json_file, explanation.as_dict())


@command(
    "headstart cache verify",
    "headstart cache verify --repair",
    "headstart cache verify --recompute 100 --data flower_photos --model resnet50",
    "headstart cache verify 3f2a s3://bucket/team",
)
def verify(
    *places: Annotated[
        str,
        argument(
            "[KEY] [URL]", "Only this trunk (default: all); of a store behind a URL, such as s3://bucket/team."
        ),
    ],
    repair: Annotated[
        bool,
        Parameter(
            help="Set damaged shards aside, to be computed again.", negative="--no-repair", show_default=False
        ),
    ] = False,
    recompute: Annotated[
        int | None,
        Parameter(
            help="Instead, draw so many samples of --data, compute their features again with --model and compare. "
            "The other options are those of `headstart extract`.",
            converter=positive_number,
        ),
    ] = None,
    data: Annotated[str | None, Parameter(help="With --recompute: the data set.")] = None,
    model: Annotated[str | None, Parameter(help="With --recompute: the architecture.")] = None,
    weights: Weights = None,
    size: Size = None,
    decode: Decode = None,
    on_error: OnError = "raise",
    truncated: Truncated = "raise",
    feature_options: Annotated[FeatureOptions, FLAT] = FEATURE_OPTIONS,
    batch_size: BatchSize = DEFAULTS["batch_size"],
    backend: Annotated[str | None, parameter("backend")] = DEFAULTS["backend"],
    device: Annotated[str, parameter("device")] = DEFAULTS["device"],
    json_file: Json = None,
) -> int | None:
    """Read every row and check it; exit code 1 where something is damaged.

    Checksums find damage, not malice: whoever may write a cache can write wrong rows under right checksums.
    --recompute tells such rows.
    """
    from headstart import cache
    from headstart.features import recompute as recomputing

    key, url = key_and_url(places)
    if url is not None:
        if repair or recompute is not None:
            raise SettingError(
                f"{'--repair' if repair else '--recompute'} is for the own cache; leave out the URL"
            )
        return tell_verified_there(cache.at(url).verify(key), json_file)
    if recompute is None:
        if data is not None or model is not None:
            raise SettingError("--data and --model are for --recompute N; expected that with them")
        report = cache.verify(key, repair=repair)
        _tell_verified(report)
        write_figures(json_file, report.as_dict())
        damage_stays = report.in_reach and not repair
        if damage_stays:
            say("`headstart cache verify --repair` sets them aside", err=True)
        return 1 if report.shared or report.unreadable or report.not_moved or damage_stays else None
    if data is None or model is None or key is not None or repair:
        raise SettingError(
            "--recompute compares a data set's features with what a model computes; expected --data and "
            "--model with it, and neither a key nor --repair"
        )
    compared = recomputing.verify(
        *opened(
            Source(
                data=data,
                model=model,
                weights=weights,
                size=size,
                decode=decode,
                on_error=on_error,
                truncated=truncated,
            )
        ),
        **feature_options.arguments(),
        samples=recompute,
        batch_size=batch_size,
        backend=backend,
        device=device,
    )
    _tell_compared(compared)
    write_figures(json_file, compared.as_dict())
    return None if compared else 1


def _tell_verified(report: VerifyReport) -> None:
    for path, reason in report.damaged:
        say(f"damaged: {printable(str(path))}: {printable(reason)}")
    say(f"{report.rows:,} rows in {report.shards:,} shards verified, {len(report.damaged)} damaged")
    for path, reason in report.unreadable:
        say(f"cannot be read, and left as it is: {printable(str(path))}: {printable(reason)}")
    for path in report.set_aside:
        say(f"set aside: {printable(str(path))}")
    for path, reason in report.not_moved:
        say(f"not set aside: {printable(str(path))}: {printable(reason)}", err=True)
    if report.shared:
        say(
            f"{len(report.shared)} of the damaged files are in a shared cache and cannot be mended from here; "
            "their rows are passed over, and computed into the own cache when they are needed",
            err=True,
        )


def _tell_compared(report: RecomputeReport) -> None:
    for difference in report.differing:
        say(f"differs: {printable(str(difference))}")
    say(
        f"{report.compared:,} stored rows computed again, {len(report.differing)} differ; "
        f"{report.without_features:,} samples have no features"
    )


KeyOrUrl = Annotated[
    str,
    argument("[KEY...] URL", "Keys, or their beginnings (default: all), and such as s3://bucket/prefix."),
]
DryRun = Annotated[bool, Parameter(help="Only say what would be moved.", show_default=False)]


@command(
    "headstart cache push s3://bucket/team",
    "headstart cache push 3f2a 91c0 s3://bucket/team",
    "headstart cache push s3://bucket/team --dry-run",
)
def push(*places: KeyOrUrl, dry_run: DryRun = False, json_file: Json = None) -> int | None:
    """Write to a store behind a URL what it lacks of the cache.

    Shards are read and verified first, and written under their names, so that any number may push to one place.
    The same command goes on where an earlier one has stopped; exit code 1 where something could not be pushed.
    """
    from headstart import cache

    keys, url = keys_and_url(places)
    return tell_moves(cache.push(url, keys, dry_run=dry_run), json_file)


@command(
    "headstart cache pull s3://bucket/team",
    "headstart cache pull 3f2a s3://bucket/team",
    "headstart cache pull s3://bucket/team --dry-run",
)
def pull(*places: KeyOrUrl, dry_run: DryRun = False, json_file: Json = None) -> int | None:
    """Bring from a store behind a URL what the cache lacks.

    Shards are verified before they have their names. As an extraction does, it makes room by HEADSTART_CACHE_MAX
    first. The same command goes on where an earlier one has stopped; exit code 1 where something could not be
    pulled.
    """
    from headstart import cache

    keys, url = keys_and_url(places)
    return tell_moves(cache.pull(url, keys, dry_run=dry_run), json_file)


@command(
    "headstart cache gc --max-size 5GB",
    "headstart cache gc --max-size 0 --yes",
    "headstart cache gc --data flower_photos --data other_photos",
    "headstart cache gc s3://bucket/team --grace 30d",
    "headstart cache gc 3f2a s3://bucket/team --yes",
)
def gc(
    *places: Annotated[
        str,
        argument("[KEY...] URL", "In a store behind a URL, such as s3://bucket/prefix: all trunks, or these."),
    ],
    max_size: Annotated[
        str | None, Parameter(help="What may stay, such as 500MB or 20GB. (default: HEADSTART_CACHE_MAX)")
    ] = None,
    yes: Annotated[
        bool, Parameter(help="Delete; without it, only show what would go.", show_default=False)
    ] = False,
    dry_run: Annotated[
        bool,
        Parameter(help="Only show what would go; what is done without --yes anyhow.", show_default=False),
    ] = False,
    grace: Annotated[
        str | None,
        Parameter(help="With a URL: only what is older goes, such as 12h or 30d. (default: 7d)"),
    ] = None,
    data: Annotated[
        list[str] | None,
        Parameter(
            help="Delete orphans instead: rows of images that are in none of these data sets (any more). Give it "
            "once for each data set whose features are to stay."
        ),
    ] = None,
    on_error: OnError = "raise",
    truncated: Truncated = "raise",
    json_file: Json = None,
) -> int | None:
    """Delete the features that were not used for longest, until the rest fits.

    Shared caches are left alone. With --data, delete the features of images that were removed or edited. With a
    URL, delete there, of all trunks or of those that are named, what is older than the grace: of those that were
    written to longest ago first, and with --max-size only until the rest fits.
    """
    from headstart import cache
    from headstart.features.remote_cache import GRACE
    from headstart.store.feature_store import cache_limit

    if yes and dry_run:
        raise SettingError("--yes deletes and --dry-run does not; expected one of them")
    if places:
        keys, url = keys_and_url(places)
        if data:
            raise SettingError("--data is for the own cache; expected it without a URL")
        grace = grace or GRACE
        there = cache.at(url).gc(keys, grace=grace, max_size=max_size or 0, delete=yes)
        return tell_cleaning(there, grace, json_file)
    if grace is not None:
        raise SettingError("--grace is for a store behind a URL; expected one, such as s3://bucket/prefix")
    if data and max_size is not None:
        raise SettingError("--data deletes orphans and --max-size whole trunks; expected one of them")
    if data:
        _gc_orphans(data, on_error, truncated, yes, json_file)
        return None
    if max_size is None and cache_limit() is None:
        raise SettingError("cache gc needs a limit: --max-size, such as 20GB, or HEADSTART_CACHE_MAX")
    cleaning = cache.gc(max_size, delete=yes)
    for folder in cleaning.plan:
        say(
            f"{_verb(yes)} {folder.key[:12]}  {folder.hint('model')} at {folder.hint('cut')}, "
            f"{folder.rows:,} rows, {nbytes_text(folder.nbytes)}, last used {when(folder.last_used)}"
        )
    if cleaning.plan.leftovers:
        say(f"{_verb(yes)} {len(cleaning.plan.leftovers)} unfinished files")
    if cleaning.freed is not None:
        say(f"{nbytes_text(cleaning.freed)} freed")
    else:
        say("nothing was deleted; add --yes to do it" if cleaning.plan else "nothing to delete")
    write_figures(json_file, cleaning.as_dict())
    return None


def _gc_orphans(names: Sequence[str], on_error: str, truncated: str, yes: bool, json_file: Path | None) -> None:
    from headstart import cache
    from headstart.data import open_data

    keep = [open_data(name, on_error=on_error, truncated=truncated) for name in names]
    cleaning = cache.gc(keep=keep, delete=yes)
    for orphans in cleaning:
        say(
            f"{_verb(yes)} {orphans.rows:,} orphans ({nbytes_text(orphans.nbytes)}) of {orphans.key[:12]}  "
            f"{orphans.hint('model')} at {orphans.hint('cut')}; {orphans.kept:,} rows stay"
        )
    if cleaning.freed is not None:
        say(f"{nbytes_text(cleaning.freed)} freed")
    elif len(cleaning):
        say("nothing was deleted; add --yes to do it. Data sets that are not named count as removed")
    else:
        say("there are no orphans")
    write_figures(json_file, cleaning.as_dict())


def _verb(yes: bool) -> str:
    return "deleting" if yes else "would delete"
