"""Options that commands share, and those made of the API's own parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias

import click
from click.shell_completion import CompletionItem

from ..auth import TOKEN_VARIABLE
from ..errors import ConfigurationError, QueryError
from ..parameters import NEEDED, Choices, Cursor, Parameter, Words

DATABASE_VARIABLE = "WSGI_TRACKER_DATABASE"
LONGEST_METAVAR = 40

Command: TypeAlias = Callable[..., Any]

database_option = click.option(
    "-d",
    "--database",
    default="visits.db",
    show_default=True,
    envvar=DATABASE_VARIABLE,
    show_envvar=True,
    metavar="PATH",
    help="The database of visits.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
_url_option = click.option(
    "--url",
    metavar="URL",
    help="Ask this application instead, as https://shop.example.com; where its reports are "
    "elsewhere than at /api/tracking, as https://example.com/shop/api/tracking.",
)
_token_option = click.option(
    "--token", envvar=TOKEN_VARIABLE, show_envvar=True, help="The token that URL asks for."
)


def source_options(command: Command) -> Command:
    """Let a command ask a database or a URL."""
    return database_option(_url_option(_token_option(command)))


def checked_by(check: Callable[[Any], object]) -> Callable[..., Any]:
    """Return a callback that returns a value as it was given, if ``check`` takes it."""

    def run(context: click.Context, option: click.Parameter, value: Any) -> Any:
        try:
            if value is not None:
                check(value)
        except (ConfigurationError, QueryError) as error:
            raise click.BadParameter(str(error), context, option) from error
        return value

    return run


def _completed_by(words: Sequence[str]) -> Callable[..., list[CompletionItem]]:
    """Return a function that says which of these words may be meant, also behind a comma."""

    def complete(
        context: click.Context, option: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, begun = incomplete.rpartition(",")
        return [
            CompletionItem(f"{before}{comma}{word}") for word in words if word.startswith(begun)
        ]

    return complete


def parameter_options(parameters: Sequence[Parameter]) -> Callable[[Command], Command]:
    """Give a command an option for each parameter of the API; it gets ``pairs`` of those given."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**options: Any) -> Any:
            found = [(each.name, options.pop(f"asked_{each.name}")) for each in parameters]
            pairs = [(name, value) for name, value in found if value is not None]
            return command(pairs=pairs, **options)

        decorated: Command = run
        for parameter in reversed(parameters):
            decorated = _option(parameter)(decorated)
        return decorated

    return decorate


def _option(parameter: Parameter) -> Callable[[Command], Command]:
    name, destination = f"--{parameter.name.replace('_', '-')}", f"asked_{parameter.name}"
    schema = parameter.schema
    if schema.get("type") == "boolean":
        return click.option(
            name, destination, flag_value="true", default=None, help=parameter.description
        )
    words = schema.get("enum", ())
    listed = "|".join(words)
    is_short = 0 < len(listed) <= LONGEST_METAVAR
    description = _described(parameter)
    if words and not is_short:
        description += f" One of {', '.join(words)}."
    if isinstance(parameter, Choices):
        words = parameter.choices
    if parameter.default not in (None, NEEDED, frozenset()):
        description += f"  [default: {parameter.default}]"
    return click.option(
        name,
        destination,
        required=parameter.default is NEEDED,
        metavar=f"[{listed}]" if is_short else parameter.name.upper(),
        help=description,
        callback=checked_by(parameter.parse),
        shell_complete=_completed_by(words),
    )


def _described(parameter: Parameter) -> str:
    """Return what a parameter does, and what it may be where its metavar cannot say it."""
    if isinstance(parameter, Cursor):
        return "Where a page goes on: what the page before says on standard error."
    if isinstance(parameter, Choices) and not all(
        f"{word}:" in parameter.description for word in parameter.choices
    ):
        return f"{parameter.description} Any of {', '.join(parameter.choices)}."
    if isinstance(parameter, Words):
        return f"{parameter.description} {parameter.meaning[0].upper()}{parameter.meaning[1:]}."
    return parameter.description
