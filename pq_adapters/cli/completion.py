"""``pq completion``: a script for the user's shell."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(short_help="Print a completion script.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that lets your shell complete pq's commands and options.

    bash: eval "$(pq completion bash)" in ~/.bashrc; zsh: the same with zsh in ~/.zshrc;
    fish: pq completion fish > ~/.config/fish/completions/pq.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    root = click.get_current_context().find_root().command
    click.echo(found(root, {}, "pq", "_PQ_COMPLETE").source())
