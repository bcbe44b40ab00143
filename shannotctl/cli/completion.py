"""`shannotctl completion`: what a shell needs to complete our words."""

from __future__ import annotations

import click

from shannotctl.cli.console import Console


@click.command(
    epilog='For bash: eval "$(shannotctl completion bash)" in ~/.bashrc; zsh likewise in ~/.zshrc, '
    "after `autoload -Uz compinit; compinit`; "
    "for fish: shannotctl completion fish > ~/.config/fish/completions/shannotctl.fish"
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    source = kind(context.find_root().command, {}, "shannotctl", "_SHANNOTCTL_COMPLETE").source()
    Console().print([source])
    return 0
