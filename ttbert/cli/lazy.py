"""Groups of commands whose modules are imported when somebody asks for them: to import all would take 20 ms."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click


class LazyGroup(click.Group):
    """A group in which the command NAME is `NAME_command` of the module that `modules` has for it, relative to this package."""

    def __init__(self, *args: Any, modules: Mapping[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._modules})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._modules and cmd_name not in self.commands:
            self.add_command(getattr(import_module(self._modules[cmd_name], __package__), f"{cmd_name}_command"))
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:  # then click looks for similar names among those that are there
            for name in self._modules:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)
