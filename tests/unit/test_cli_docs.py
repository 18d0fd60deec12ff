"""docs/cli.md names every command and option, and nothing that is not there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pq_adapters.cli.root import root

ROOT = Path(__file__).parents[2]


def commands(command: click.Command = root, path: tuple[str, ...] = ("pq",)) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from commands(found, (*path, name))
    else:
        yield " ".join(path), command


def sections(text: str) -> dict[str, str]:
    """Return what stands under each heading like ``## `pq worker APP` ``, by the command's name."""
    parts = re.split(r"^#{2,3} `(pq [a-z ]*[a-z])[^`]*`$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


DOCUMENTED = sections((ROOT / "docs" / "cli.md").read_text(encoding="utf-8"))
COMMANDS = dict(commands())


def options(command: click.Command) -> set[str]:
    shown = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    return {name for p in shown for name in p.opts if name != "--help"}


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented_with_every_option(name: str) -> None:
    mentioned = set(re.findall(r"`(--[a-z-]+)", DOCUMENTED.get(name, "")))

    assert mentioned == options(COMMANDS[name])


def test_nothing_is_documented_that_is_not_there() -> None:
    assert DOCUMENTED.keys() == COMMANDS.keys()


def test_the_check_itself_sees_what_is_missing() -> None:
    found = sections("## `pq a`\n`--x`\n### `pq b c [ID]`\n`--y N`\n")

    assert found == {"pq a": "\n`--x`\n", "pq b c": "\n`--y N`\n"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str) -> None:
    command = COMMANDS[name]

    assert command.help
    assert command.short_help
    assert all(p.help for p in command.params if isinstance(p, click.Option))


def test_demos_application_loads_none_of_the_command_lines_libraries() -> None:
    program = "import sys, pq_adapters.cli.demo.tasks; print({'click', 'rich', 'sqlalchemy'} & set(sys.modules))"

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)

    assert said.stdout == "set()\n"
