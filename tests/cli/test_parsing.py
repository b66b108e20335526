"""Words of a command line: where options may stand, what their values may look like, and in which words a mistake
is told."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from commands import headstart
from cyclopts import App

from headstart.cli import app, options
from headstart.common.log import LOG
from headstart.training.compare import CompareArguments
from headstart.training.modes import MODES
from headstart.training.options import OPTIONS, flags_for

pytestmark = pytest.mark.neutral


def values(command: str, *words: str) -> dict[str, Any]:
    """What a command would be called with; options of a class by their own names."""
    _, bound, _ = app.build(command.split()).parse_args(
        [*command.split(), *words], exit_on_error=False, print_error=False
    )
    bound.apply_defaults()
    flat: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        flat |= vars(value) if hasattr(value, "__dataclass_fields__") else {name: value}
    return flat


# --- what there is


def test_lists_say_what_commands_say_of_themselves() -> None:
    built = app.build()
    for name, line in app.COMMANDS.items():
        family, _, last = name.rpartition(" ")
        module = import_module(f"headstart.cli.{family or last}")
        function = getattr(module, {"import": "import_"}.get(last, last)).default_command
        assert " ".join(function.__doc__.partition("\n\n")[0].split()) == line, name
        parent = built[family] if family else built
        assert parent[last].default_command is function


def test_every_command_is_listed() -> None:
    out = headstart("--help").out
    for names in app.TITLES.values():
        assert all(f"│ {name} " in out for name in names)
    top = [name for name in app.COMMANDS if " " not in name]
    assert sorted([*top, *app.FAMILIES]) == sorted(name for names in app.TITLES.values() for name in names)


@pytest.mark.parametrize("command", ["fit", "compare", "sweep", "plan"])
def test_options_of_training_come_from_their_fields(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names, defaults and sentences: an option is its field and its use."""
    monkeypatch.setenv("COLUMNS", "300")
    got, out = values(command), headstart(command, "--help").out
    for option in flags_for(command):
        assert got[option.name] == option.default_of(command)
        (row,) = [line for line in out.splitlines() if line.startswith(f"│ {option.flag} ")]
        assert option.help in row
        assert (option.unset in row) == (got[option.name] is None) or not option.unset
        assert option.group.rstrip(".") in out


def test_data_and_model_are_those_of_python() -> None:
    got = values("compare")
    for name, default in vars(CompareArguments()).items():
        if name not in ("backends", "modes", "fit", "columns"):  # columns: an option each
            assert got[name] == default, name
    assert (got["backends"], options.names_in(got["modes"])) == (None, tuple(MODES))


def test_compare_has_what_fit_has() -> None:
    assert {"augment", "views", "memory", "batch_norm", "head_epochs"} <= values("compare").keys()


@pytest.mark.parametrize("command", ["fit", "sweep", "cache explain", "weights import"])
def test_help_imports_nothing_heavy(command: str) -> None:
    code = f"import sys; sys.argv = ['headstart', *{command.split()}, '--help']\n"
    code += "from headstart.cli.main import main\nmain()\n"
    code += "print(sorted({'numpy', 'PIL', 'huggingface_hub', 'sklearn', 'torch'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# --- where options stand, and what values look like


@pytest.mark.parametrize(
    "words",
    [
        ("--log-level", "error", "models", "lenet"),
        ("models", "lenet", "--log-level", "error"),
        ("models", "--log-level=error", "lenet"),
        ("models", "lenet", "--log-level", "info", "--log-level", "error"),
    ],
)
def test_the_level_stands_before_the_command_or_behind(words: tuple[str, ...], monkeypatch: Any) -> None:
    levels = []
    monkeypatch.setattr("headstart.cli.app.set_level", lambda name: levels.append(name))
    assert headstart(*words).code == 0
    assert levels == ["error"]


def test_the_level_comes_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    monkeypatch.setattr("headstart.cli.app.set_level", lambda name: levels.append(name))
    monkeypatch.setenv("HEADSTART_LOG_LEVEL", "warning")
    headstart("models", "lenet")
    headstart("models", "lenet", "--log-level", "debug")
    assert levels == ["warning", "debug"]
    assert LOG.level == 0


@pytest.mark.parametrize("words", [("--debug", "models", "nonsuch"), ("models", "nonsuch", "--debug")])
def test_debug_stands_before_the_command_or_behind(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="nonsuch"):
        headstart(*words)


def test_values() -> None:
    got = values(
        "fit", "--data", "-photos", "--lr", "-3", "--epochs=4", "--epochs", "5", "--out=--run", "--seed", "7"
    )
    assert (got["data"], got["lr"], got["epochs"], got["out"]) == ("-photos", -3.0, 5, Path("--run"))
    assert got["seed"] == 7
    assert values("fit", "--lr-scale", "layer3=0.1,pretrained=0.01")["lr_scale"] == "layer3=0.1,pretrained=0.01"
    assert values("cache gc", "--data", "a", "--data", "b")["data"] == ["a", "b"]
    assert values("cache gc", "--yes")["yes"] is True


@pytest.mark.parametrize("text", ["[x]", '["a","b"]', '{"a":1}', "none", "a,b", "*", "1"])
def test_names_are_taken_as_they_are(text: str) -> None:
    """Of files, classes or weights: none is JSON, or Python's None."""
    assert values("cache gc", "--data", text)["data"] == [text]
    assert values("predict", text)["images"] == (text,)
    assert values("cache info", text)["key"] == text
    got = values("fit", "--data", text, "--weights", text, "--out", text)
    assert (got["data"], got["weights"], got["out"]) == (text, text, Path(text))


def test_a_command_line_knows_nothing_of_the_one_before() -> None:
    """Whose options are put together once in a process: of the command's own, and of those of a class."""
    asked = values("fit", "--data", "a", "--epochs", "3", "--out", "run")
    assert (asked["data"], asked["epochs"], asked["out"]) == ("a", 3, Path("run"))
    plain = values("fit")
    assert (plain["data"], plain["epochs"], plain["out"]) == ("digits", None, None)
    assert values("fit", "--epochs", "4")["epochs"] == 4


def test_options_are_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a command, however often they are asked for: that is most of the time in which words are read."""
    made: list[Any] = []
    assemble = App.assemble_argument_collection

    def noted(self: App, **settings: Any) -> Any:
        made.append(self.default_command)
        return assemble(self, **settings)

    monkeypatch.setattr(App, "assemble_argument_collection", noted)
    for _ in range(2):
        assert headstart("plan", "--data", "nowhere").code == 2
    assert made.count(import_module("headstart.cli.plan").plan.default_command) <= 1


def test_flags_and_their_opposites() -> None:
    assert [values("weights pin", *words)["check"] for words in ((), ("--check",), ("--no-check",))] == [
        True,
        True,
        False,
    ]
    assert values("cache verify", "--no-repair")["repair"] is False
    for command in ("fit", "sweep", "compare"):
        assert [values(command, *words)["standardize"] for words in ((), ("--no-standardize",))] == [True, False]
    for words in (("cache", "gc", "--no-yes"), ("cache", "gc", "--empty-data"), ("fit", "--no-debug-nans")):
        assert "unknown option" in headstart(*words).err


def test_arguments() -> None:
    images = values("predict", "a.jpg", "--run", "run", "b.jpg", "--", "-c.jpg", "--run")["images"]
    assert images == ("a.jpg", "b.jpg", "-c.jpg", "--run")
    assert values("cache info", "3f2a")["key"] == "3f2a"
    assert values("models")["name"] is None


def test_what_texts_mean() -> None:
    settings = options.settings_of("fit")(lr_scale="layer3=0.1", memory="1MB")
    assert options.values_of(settings)["lr_scale"] == {"layer3": 0.1}
    assert options.values_of(settings).keys() == {option.name for option in flags_for("fit")}
    assert options.head_of("256,0.5") == (256, 0.5)
    assert options.tried({"lr": "0.1,1", "seeds": "3", "weight_decay": None}) == {"lr": [0.1, 1.0], "seed": [3]}
    assert OPTIONS["lr_scale"].parse is not None


# --- mistakes

MISTAKES = {
    "an option": ("fit --epoch-count 3", "unknown option --epoch-count"),
    "an option nearly": ("fit --epoch 3", "unknown option --epoch; did you mean --epochs?"),
    "where a run goes": ("fit --save run/", "unknown option --save; did you mean --out?"),
    "a run that is not there yet": ("fit --run=run/", "unknown option --run; did you mean --out?"),
    "where features go": ("extract --out saved/", "unknown option --out; did you mean --save?"),
    "where predictions go": ("predict a.jpg --output p.csv", "unknown option --output; did you mean --csv?"),
    "a run misspelt": ("evaluate --runs run/ --data x", "unknown option --runs; did you mean --run?"),
    "a run as a model": ("evaluate --model run/ --data x", "unknown option --model; did you mean --run?"),
    "nothing near": ("evaluate --run run/ --data x --zoom 2", "unknown option --zoom\n"),
    "as others call it": ("fit --learning-rate 0.1", "unknown option --learning-rate; did you mean --lr?"),
    "an option before the command": ("--nope fit", "unknown option --nope"),
    "an option and no command": ("-h", "unknown option -h"),
    "a short option": ("predict -x a.jpg", "unknown option -x"),
    "a command": ("trian", "unknown command 'trian'; expected one of demo, advise, compare, fit, "),
    "a command nearly": ("swep", "did you mean 'sweep'?"),
    "a command as others call it": ("train --data x", "'train'; did you mean 'fit'?"),
    "a command of a family": ("cache delete", "unknown command 'delete'; expected one of ls, info, "),
    "no value at the end": ("fit --epochs", "--epochs needs a value"),
    "no value before an option": ("fit --out --json f.json", "--out needs a value; --out=--json if that is one"),
    "no value before a flag": ("fit --out --debug-nans", "--out needs a value"),
    "no value before an option of all": ("fit --out --log-level error", "--out needs a value"),
    "no level": ("models --log-level", "--log-level needs a value"),
    "no whole number": ("fit --epochs 1.5", "value for --epochs: expected a whole number, received '1.5'"),
    "no number": ("fit --lr fast", "value for --lr: expected a number, received 'fast'"),
    "no number but none": ("fit --lr none", "value for --lr: expected a number, received 'none'"),
    "no share": ("fit --split half", "value for --split: expected a number, received 'half'"),
    "a decimal comma": ("fit --lr 0,01", "received '0,01'; did you mean 0.01?"),
    "a decimal comma in a list": ("sweep --weight-decay 0,01", "and points in them: 0.01, not 0,01"),
    "too small": ("predict --top 0 a.jpg", "value for --top: expected a whole number of 1 or more, received 0"),
    "no argument": ("predict", "IMAGES is missing; expected image files, folders of them"),
    "no key": ("cache info", "KEY is missing; expected a key, or its beginning; `headstart cache ls` lists them"),
    "no option": ("weights rm mine", "--model is missing"),
    "one too many": ("cache ls s3://a/b more and", "'more' is one argument too many"),
    "several values": ("sweep --lr 0.1 0.01", "'0.01' is one argument too many; several values of an option have"),
    "help of a command": ("fit help", "'help' is one argument too many; did you mean --help?"),
    "help": ("help", "there is no command 'help'; `headstart --help` lists them"),
    "what is elsewhere": ("serve out.onnx", "; examples/serve/serve.py serves what `headstart export` writes"),
    "data by its place": ("fit .", "'.' is one argument too many; did you mean --data .?"),
    "no shell": ("completion show --shell tcsh", 'value "tcsh" for --shell. Choose from: "bash"'),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line, text = MISTAKES[mistake]
    result = headstart(*line.split())
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("error: ") and text in result.err
    assert not list(tmp_path.iterdir())


def test_an_option_of_several_values_that_is_given_twice_is_told() -> None:
    """Of other programs `--label cat --label dog` is both; here the last counts, as of any option."""
    said = "warning: {} is given 2 times, and the last counts: {}; several values have commas between them\n"
    for line, option, last in (
        ("fit --label cat --label=dog", "--label", "dog"),
        ("sweep --lr 0.1 --lr 0.01", "--lr", "0.01"),
        ("fit --class-weights cat=2 --class-weights dog=3", "--class-weights", "dog=3"),
    ):
        assert headstart(*line.split(), "--data", "nowhere").err.startswith(said.format(option, last))
    for line in ("fit --epochs 1 --epochs 2", "fit --lr 0.1 --lr 0.01", "fit --label cat --label cat",
                 "cache gc --data a --data b", "cache gc -- --data a --data b"):  # fmt: skip
        assert "times" not in headstart(*line.split(), "--data", "nowhere").err


@pytest.mark.parametrize("family", ["", *app.FAMILIES])
def test_a_command_that_is_missing(family: str) -> None:
    result = headstart(*family.split())
    assert (result.code, result.err) == (2, "")
    assert f"Usage: headstart {family}".strip() in result.out
    examples = result.out.partition("Examples:")[2].split("\n\n")[1].splitlines()
    assert examples and all(line.startswith(f"  headstart {family}".rstrip()) for line in examples)


# --- Ctrl-C


def test_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("headstart.models.listing.summaries", interrupted)
    assert headstart("models") == (130, "", "interrupted\n")


# --- completion


@pytest.mark.parametrize(
    "shell", ["bash", *(pytest.param(name, marks=pytest.mark.slow) for name in ("zsh", "fish"))]
)
def test_the_completion_of_a_shell(shell: str) -> None:
    script = headstart("completion", "show", "--shell", shell).out
    assert all(word in script for word in ("headstart", "explain", "label-smoothing", "log-level"))


def test_bash_completes(tmp_path: Path) -> None:
    script = tmp_path / "headstart.bash"
    script.write_text(headstart("completion", "show", "--shell", "bash").out)
    code = (
        f"source {script}; COMP_WORDS=(headstart fit --label-); COMP_CWORD=2; _headstart; echo ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["--label-smoothing"]


def test_the_completion_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "BASH_COMPLETION_USER_DIR"):
        monkeypatch.delenv(name, raising=False)
    result = headstart("completion", "install", "--shell", "bash")
    assert result.code == 0, result.err
    path = Path(result.out.removeprefix("installed as ").partition(";")[0])
    assert path.is_relative_to(tmp_path) and "_headstart()" in path.read_text()


# --- what is written to


@pytest.mark.parametrize(
    "command", ["fit", "sweep", "plan", "compare", "demo", "extract", "doctor", "models", "weights ls", "cache ls"]
)
def test_figures_that_cannot_be_written_are_told_before_any_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    figures = tmp_path / "file" / "figures.json"
    result = headstart(*command.split(), "--json", figures)
    said = f"error: {figures}: cannot be written ({tmp_path / 'file'} is no folder)\n"
    assert (result.code, result.out, result.err) == (2, "", said)


@pytest.mark.parametrize("command", ["compare --out", "demo --out", "fit --out", "sweep --out", "extract --save"])
def test_folders_that_cannot_be_written_are_told_before_any_work(command: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = headstart(*command.split(), tmp_path / "file")
    assert result.code == 2
    assert result.err.endswith(f"{tmp_path / 'file'} is no folder)\n") and "image" not in result.err
