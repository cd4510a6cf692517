"""Makes a command from a function whose parameters may be dataclasses; their fields become its options."""

from __future__ import annotations

import dataclasses
import inspect
import os
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click

from cfcam_gpu._utils.option import KEY, OUTPUT, Option
from cfcam_gpu._utils.places.masking import masked
from cfcam_gpu._utils.places.schemes import not_written, run_url, scheme_of
from cfcam_gpu.cli.help import Row, help_page
from cfcam_gpu.cli.printing import say
from cfcam_gpu.dataset.options import LOG_FORMATS, RECORD_KINDS
from cfcam_gpu.errors import CFCAMError, ConfigError, InputError

T = TypeVar("T")

#: The options as given: name of the parameter -> text or value; None: not given, and there is no default.
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Argument:
    """Marks a parameter of a command's function that is given without a name; `help`: what it is, in a line."""

    help: str
    metavar: str


Inputs = Annotated[list[str], Argument("Files, folders, globs, manifests or tar shards.", "INPUT...")]
#: A folder of a run: a path, or the URL of one at an object store.
Folder = str | Path

Results = Annotated[Folder, Argument("Folder or URL that cfcam explain wrote.", "OUT")]
LogFormat = Annotated[str, Option(f"Of what is told on stderr: {', '.join(LOG_FORMATS)}.", OUTPUT, "NAME")]
Records = Annotated[
    str | None, Option(f"Keep records, KIND:PLACE; {', '.join(RECORD_KINDS)}.", OUTPUT, "RECORD,...")
]
Json = Annotated[bool, Option("One JSON object on stdout, nothing else.", OUTPUT, name="json")]


class Command(click.Command):
    """A command whose help has panels and ends with examples."""

    examples = ""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Gives an option that stands alone its value: what follows it is a value only if it is a number."""
        bare = {
            flag: one.bare
            for one in self.params
            if isinstance(one, _Option) and one.bare
            for flag in one.opts
        }
        numbers = [_is_number(arg) for arg in args[1:]] + [False]
        given = zip(args, numbers, strict=False)
        return super().parse_args(
            ctx, [f"{arg}={bare[arg]}" if arg in bare and not number else arg for arg, number in given]
        )

    def get_help(self, ctx: click.Context) -> str:
        panels: dict[str, list[Row]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, _Argument):
                row = Row(parameter.make_metavar(ctx), "", f"{parameter.about} [required]", required=True)
                panels["Arguments"].append(row)
            elif isinstance(parameter, click.Option):
                panels.setdefault(getattr(parameter, "panel", "Options"), []).append(_row(parameter))
        usage = f"{ctx.command_path} {' '.join(self.collect_usage_pieces(ctx))}"
        return help_page(usage, inspect.cleandoc(self.help or ""), panels, self.examples)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class _Argument(click.Argument):
    about = ""


class _Option(click.Option):
    panel = "Options"
    bare: str | None = None


def command(
    *, examples: str = "", leave_out: Collection[str] = (), adjust: Callable[[Values], Values] | None = None
) -> Callable[[Callable[..., None]], Command]:
    """Makes a command of a function, called as the function.

    Each of its parameters is one of these:

    - an argument, `Annotated[type, Argument(...)]`, or an option, `Annotated[type, Option(...)]`;
    - a dataclass: the command gets an option for each field that is one (see `cfcam_gpu._utils.option`), and for
      the fields of a dataclass inside it; the function gets the dataclass made from them;
    - anything else gets the text of the option of its name, which a field of a dataclass has.

    Args:
        examples: printed at the end of the help.
        leave_out: fields that are no options of this command.
        adjust: changes the values of the options before the dataclasses are made.

    Example:
        >>> from cfcam_gpu.config import CFCAMConfig
        >>> @command(leave_out=["filter", "diameter"])
        ... def show(config: CFCAMConfig) -> None:
        ...     print(config.fine_share, config.filter)
        >>> show.main(["--fine-share", "0.5"], standalone_mode=False)
        0.5 bilateral
    """

    def decorate(function: Callable[..., None]) -> Command:
        hints = typing.get_type_hints(function, include_extras=True)
        own = inspect.signature(function).parameters
        kinds = {name: hints[name] for name in own if dataclasses.is_dataclass(hints[name])}
        params: list[click.Parameter] = []
        for name, parameter in own.items():
            if name in kinds:
                params += _options(kinds[name], leave_out)
            elif typing.get_origin(hints[name]) is Annotated:
                kind, mark = typing.get_args(hints[name])
                params.append(_own_parameter(name, kind, mark, parameter.default))

        def call(**given: Any) -> None:
            values = adjust(given) if adjust else given
            plain = {name: values[name] for name in own if name in values and name not in kinds}
            function(**plain, **{name: build(kind, values) for name, kind in kinds.items()})

        made = Command(function.__name__, callback=call, params=params, help=function.__doc__)
        made.examples = examples
        return made

    return decorate


def with_rank(values: Values) -> Values:
    """The values of the options, with the rank and world size that torchrun or Slurm say unless they were given.

    Raises:
        ConfigError: only one of the two was given.
    """
    from cfcam_gpu.dataset.options import launcher_note, rank_and_world_size

    rank, world_size = rank_and_world_size(values["rank"], values["world_size"], os.environ)
    note = launcher_note(os.environ, world_size) if values["rank"] is None else None
    if note:
        say(note)
    return {**values, "rank": rank, "world_size": world_size}


def build(kind: Callable[..., T], values: Values) -> T:
    """A dataclass made from the values of options.

    A field whose option was not given keeps its default. A field that is a dataclass itself starts from its
    own option or its default; those of its fields that were given replace the ones it starts with.

    Raises:
        ConfigError: a text that is no value of its field, or what the dataclass refuses.

    Example:
        >>> from cfcam_gpu.dataset.options import RunOptions
        >>> options = build(RunOptions, {"preset": "upstream", "sigma_space": 2.0, "target": "predicted"})
        >>> options.config.filter, options.config.sigma_space, options.target
        ('upstream', 2.0, None)
    """
    return kind(**_settings(kind, values))


def parse(name: str, parser: Callable[[str], T], text: str) -> T:
    """The value of an option's text.

    Raises:
        ConfigError: the parser's ValueError, with the name of the option.

    Example:
        >>> parse("batch_size", int, "4")
        4
    """
    try:
        return parser(text)
    except CFCAMError:
        raise
    except ValueError as error:
        raise ConfigError(f"{_flag(name)} {error}") from error


def _settings(kind: Any, values: Values) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for field, field_type, option in _fields(kind):
        if option is not None:
            name = option.name or field.name
            value = values.get(name)
            if value is not None:
                settings[field.name] = parse(name, option.parse, value) if option.parse else value
        if dataclasses.is_dataclass(field_type):
            start = settings.get(field.name) or typing.cast(Any, field_type)()
            settings[field.name] = dataclasses.replace(start, **_settings(field_type, values))
    return settings


def _fields(kind: Any) -> Iterator[tuple[dataclasses.Field[Any], Any, Option | None]]:
    """(field, its type, its option or None) of a dataclass."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        yield field, hints[field.name], field.metadata.get(KEY)


def _options(kind: Any, leave_out: Collection[str], *, defaults: bool = True) -> Iterator[click.Parameter]:
    """The options of a dataclass; `defaults`: whether they have the defaults of the fields."""
    for field, field_type, option in _fields(kind):
        if field.name in leave_out:
            continue
        if option is not None:
            name = option.name or field.name
            default = _default(field, option) if defaults else None
            flags = _flag(name)
            if field_type is bool:
                flags += f"/{_flag(f'no_{name}')}"
            yield _make_option(name, flags, option, str if option.parse else field_type, default)
        if dataclasses.is_dataclass(field_type):
            yield from _options(field_type, leave_out, defaults=defaults and option is None)


def _default(field: dataclasses.Field[Any], option: Option) -> Any:
    if option.text is not None:
        return option.text
    return None if option.unset or field.default is dataclasses.MISSING else field.default


def _own_parameter(name: str, kind: Any, mark: Argument | Option, default: Any) -> click.Parameter:
    """An argument or option that a command has beside the fields of dataclasses."""
    if isinstance(mark, Argument):
        many = typing.get_origin(kind) is list
        argument = _Argument(
            [name],
            type=str if many else _click_type(kind),
            nargs=-1 if many else 1,
            required=True,
            metavar=mark.metavar,
        )
        argument.about = mark.help
        return argument
    required = default is inspect.Parameter.empty
    return _make_option(
        name, _flag(mark.name or name), mark, kind, None if required else default, required=required
    )


def _make_option(
    name: str, flags: str, option: Option, kind: Any, default: Any, *, required: bool = False
) -> click.Parameter:
    made = _Option(
        [name, flags],
        type=_click_type(kind),
        required=required,
        help=option.help,
        metavar=option.metavar,
        **({} if default is None else {"default": default}),
        is_flag=kind is bool,
    )
    made.panel = option.panel
    made.bare = option.bare
    return made


class _PathType(click.Path):
    """A path; an empty text, which would be the current folder, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("the path is an empty text; '.' is the current folder", param, ctx)
        problem = not_written(str(value))
        if problem is not None:
            self.fail(f"{masked(str(value))} {problem}", param, ctx)
        return super().convert(value, param, ctx)


class _FolderType(_PathType):
    """As `_PathType`, or the URL of a folder that results are written to."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            url = run_url(value)
        except InputError as error:
            self.fail(str(error), param, ctx)
        if url is None:
            return super().convert(value, param, ctx)
        if scheme_of(url) == "memory":
            self.fail(
                f"{url}: files in memory end with the command; give a folder, or s3:// or gs://", param, ctx
            )
        return url


def _click_type(kind: Any) -> Any:
    """Click's type for a type or a union of one with None."""
    if kind == Folder:
        return _FolderType(path_type=Path)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (member for member in typing.get_args(kind) if member is not types.NoneType)
    return _PathType(path_type=Path) if kind is Path else kind


def _row(option: click.Option) -> Row:
    metavar = "" if option.is_flag else option.metavar or ""
    text = option.help or ""
    default = option.default
    if option.required:
        text += " [required]"
    elif option.secondary_opts:
        text += f" [default: {(option.opts if default else option.secondary_opts)[0].lstrip('-')}]"
    elif not option.is_flag and isinstance(default, (str, int, float, Path)):
        text += f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
    names = sorted(option.opts, key=len, reverse=True)
    return Row("/".join([", ".join(names), *option.secondary_opts]), metavar, text, option.required)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"
