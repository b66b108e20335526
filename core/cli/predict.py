"""`headstart predict`: which class images show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from headstart.cli.command import command
from headstart.cli.options import (
    DEFAULTS,
    TABLE,
    BatchSize,
    Decode,
    Json,
    OnError,
    Size,
    Truncated,
    Weights,
    parameter,
    positive_number,
)
from headstart.cli.preparing import import_quietly
from headstart.cli.rendering import show
from headstart.cli.results import keep_figures
from headstart.common.errors import SettingError
from headstart.common.log import LOG
from headstart.common.places import expanded
from headstart.common.text import first_few

if TYPE_CHECKING:
    from headstart.training.prediction import Predictor
    from headstart.training.predictions import Written


ONNX = ".onnx"
SHOWN = 5  # classes whose numbers are printed


@command(
    "headstart predict --run run/ rose.jpg tulip.jpg",
    "headstart predict --model resnet50 --weights imagenet --top 5 photos/",
    "headstart predict --run run/ --top 3 --csv labels.csv photos/",
    "headstart predict --model vit_b_16 --size 384 photo.jpg",
    "headstart predict --run flowers.onnx photos/",
)
def predict(
    *images: Annotated[
        str,
        Parameter(
            help='Image files, folders of them, at any depth, patterns such as "photos/**/*.jpg"; or one table. '
            "Files, folders and tables may be URLs, such as s3://bucket/photos.",
            required=True,
            allow_leading_hyphen=False,
        ),
    ],
    image: Annotated[
        str | None,
        Parameter(
            help="Of a table of images: the column of files. (default: the one that is called so)",
            group=TABLE,
        ),
    ] = None,
    root: Annotated[
        str | None,
        Parameter(help="Likewise: what its files are relative to. (default: its own folder)", group=TABLE),
    ] = None,
    run: Annotated[
        Path | None,
        Parameter(
            help="Folder that `headstart fit --out` wrote; or the ONNX file that `headstart export` wrote, which "
            "takes no framework."
        ),
    ] = None,
    model: Annotated[
        str | None,
        Parameter(
            help="Use a model as it is, without training. (default: that of --run; without it efficientnet_lite0 "
            "where its weights are here, else resnet18_half)"
        ),
    ] = None,
    weights: Weights = None,
    size: Size = None,
    decode: Decode = None,
    on_error: OnError = "raise",
    truncated: Truncated = "raise",
    backend: Annotated[str | None, parameter("backend")] = DEFAULTS["backend"],
    device: Annotated[str, parameter("device")] = DEFAULTS["device"],
    precision: Annotated[str, parameter("precision")] = DEFAULTS["precision"],
    batch_size: BatchSize = DEFAULTS["batch_size"],
    top: Annotated[int, Parameter(help="Classes to name for each image.", converter=positive_number)] = 1,
    csv: Annotated[
        Path | None,
        Parameter(
            help="Write file, class and probability of each image to this file, and print no table; or .tsv."
        ),
    ] = None,
    parquet: Annotated[Path | None, Parameter(help="Likewise, as Parquet; needs headstart[arrow].")] = None,
    json_file: Json = None,
) -> None:
    """Classify images: with a model that was trained here, or with a published one as it is."""
    from headstart.contract import registry
    from headstart.data import images_at
    from headstart.data.place import is_remote
    from headstart.data.summary import say
    from headstart.training.exporting.exported import OnnxModel
    from headstart.training.prediction import check_predictor
    from headstart.training.predictions import classify, write_predictions

    file = _file(csv, parquet, json_file)
    trained, name, why = _model(run, model, {"weights": weights, "size": size, "decode": decode}, backend)
    check_predictor(trained, name, device, precision)
    data = images_at(images, on_error, image, root, examine=False, truncated=truncated)
    if why:
        LOG.info("%s", why)
    if not isinstance(trained, OnnxModel):
        import_quietly(registry.choose(name), device, precision)
    if data.skipped or any(is_remote(path) or Path(path).is_dir() for path in images):
        say(data)
    settings: dict[str, Any] = {"top": top, "backend": name, "device": device, "precision": precision}
    settings |= {"on_error": on_error, "batch_size": batch_size}
    if file is not None:
        written = write_predictions(trained, data, file, **settings)
        unread = f", {written.unread:,} of them not read" if written.unread else ""
        show(f"written to {file}: {written.images:,} images{unread}: {_counted(written)}")
        _say_unread(written.unread, written.images, written.examples)
        return
    predictions = classify(trained, data, **settings)
    keep_figures(json_file, predictions.as_list())
    show(predictions.as_table())
    _say_unread(predictions.unread, len(predictions.images), ())


def _counted(written: Written) -> str:
    """How many images show what, or between what the targets lie."""
    texts = [f"{name} {count:,}" for name, count in written.counts.items()]
    texts += [f"{name} {low:.6g} to {high:.6g}" for name, (low, high) in written.ranges.items()]
    if not texts:
        return f"none with a {written.noun}"
    return first_few(texts, SHOWN)


def _say_unread(count: int, total: int, examples: Sequence[str]) -> None:
    if count:
        first = f": {'; '.join(examples)}{' ...' if count > len(examples) else ''}" if examples else ""
        LOG.warning('%s of %s images could not be read; "error" says why%s', f"{count:,}", f"{total:,}", first)


def _file(csv: Path | None, parquet: Path | None, json_file: Path | None) -> Path | None:
    """The file that predictions are written to a batch at a time."""
    given = [file for file in (csv, parquet, json_file) if file is not None]
    if len(given) > 1:
        raise SettingError("--csv, --parquet and --json write the same figures; expected one of them")
    for option, file, suffixes in (("--csv", csv, (".csv", ".tsv")), ("--parquet", parquet, (".parquet",))):
        if file is not None and file.suffix.lower() not in suffixes:
            raise SettingError(f"{option} {file}: expected a file name that ends in {' or '.join(suffixes)}")
    return csv or parquet


def _model(
    run: Path | None, model: str | None, of_model: Mapping[str, Any], backend: str | None
) -> tuple[Predictor, str | None, str]:
    """What options name to predict with, the backend that runs it, and a line that says why
    that, where they name none. `of_model`: weights, size and decode, None where they are not said."""
    from headstart.contract import registry
    from headstart.models.default_model import Default, default_model, model_line
    from headstart.models.model import model as make_model
    from headstart.models.weights import weights_for
    from headstart.training.exporting.exported import OnnxModel
    from headstart.training.saved import load
    from headstart.training.saving import RECORD

    if run is not None and model is not None:
        raise SettingError("name a trained model with --run FOLDER, or one to use as it is with --model NAME")
    if run is not None:
        if any(value is not None for value in of_model.values()):
            raise SettingError("--weights, --size and --decode go with --model; a trained model has its own")
        path = expanded(run)
        if path.name != RECORD and (path.is_file() or (path.suffix.lower() == ONNX and not path.is_dir())):
            return OnnxModel(path), backend, ""
        trained = load(run, backend)
        return trained.model, trained.backend, ""
    weights = of_model["weights"]
    default = Default(model, "") if model is not None else default_model(photographs=True, weights=weights)
    published = weights_for(default.name, weights)
    if published is None:
        raise SettingError(f"{default.name} has no weights to use as they are; pass --weights FILE.safetensors")
    name = registry.choose(backend)
    made = make_model(default.name, **{**of_model, "weights": published})
    return made, name, default.why and model_line(made, f"{default.why}; a trained one goes with --run")
