"""What a project says of pq in its settings: ``PQ = {"schema": "jobs", …}``, read at first use."""

from __future__ import annotations

import difflib
import importlib.util
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from django.apps import apps
from django.conf import settings
from django.utils.module_loading import import_string

from pq_core.errors import InvalidOption
from pq_core.types import TaskOptions

AUTODISCOVERED = "tasks"
"""The module of an app that is looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The keys of ``settings.PQ``, in upper or lower case.

    ``alias``: which of DATABASES holds pq's tables. ``tasks``: modules with tasks, beside the ``tasks`` module of
    every installed app (unless ``autodiscover`` is False). ``defaults``: TaskOptions, or a dict of its fields.
    ``plugins``: objects or dotted paths. ``listen_dsn``: a direct DSN, when the alias leads to a pooler. The others
    are those of ``PQ()``.
    """

    alias: str = "default"
    schema: str = "public"
    app: str = ""
    tasks: tuple[str, ...] = ()
    autodiscover: bool = True
    allow: tuple[str, ...] = ()
    defaults: TaskOptions | Mapping[str, Any] | None = None
    plugins: tuple[Any, ...] = ()
    discover_plugins: bool = False
    payload_limit: int = 2**20
    listen_dsn: Any = None
    keys: Any = None

    @classmethod
    def read(cls) -> Configuration:
        """Return what settings say. Raises InvalidOption for a key that does not exist or a value of a wrong kind."""
        given = getattr(settings, "PQ", None) or {}
        if not isinstance(given, Mapping):
            raise InvalidOption(f"settings.PQ: give a dict, not {type(given).__name__}")
        known = {field.name for field in fields(cls)}
        values: dict[str, Any] = {}
        for key, value in given.items():
            name = str(key).lower()
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known))}"
                raise InvalidOption(f"settings.PQ: there is no key {key!r}; {hint}")
            if name in ("tasks", "allow", "plugins"):
                if isinstance(value, str):
                    raise InvalidOption(f"settings.PQ[{key!r}]: give a list: [{value!r}]")
                value = tuple(value)
            values[name] = value
        return cls(**values)

    def task_options(self) -> TaskOptions | None:
        """Return the defaults as options."""
        if isinstance(self.defaults, Mapping):
            try:
                return TaskOptions(**self.defaults)
            except TypeError as error:
                raise InvalidOption(f"settings.PQ['defaults']: {str(error).partition(') ')[2] or error}") from error
        return self.defaults

    def made_plugins(self) -> tuple[Any, ...]:
        """Return the plugins, those named by a dotted path imported."""
        found = (import_string(p.replace(":", ".")) if isinstance(p, str) else p for p in self.plugins)
        return tuple(plugin() if isinstance(plugin, type) else plugin for plugin in found)

    def modules(self) -> tuple[str, ...]:
        """Return the modules with tasks: those named, and those of the installed apps; imports none of them."""
        found = list(self.tasks)
        if self.autodiscover:
            for app in apps.get_app_configs():
                found += _modules(f"{app.name}.{AUTODISCOVERED}")
        return tuple(dict.fromkeys(found))


def _modules(name: str) -> Iterator[str]:
    """Yield the module if there is one, and if it is a package what is in it."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return
    yield name
    if spec.submodule_search_locations is not None:
        for info in pkgutil.iter_modules(spec.submodule_search_locations):
            yield f"{name}.{info.name}"


def schema_name() -> str:
    """Return the schema for models and migrations; a broken setting, which the checks report, counts as unsaid."""
    try:
        schema = Configuration.read().schema
    except InvalidOption:
        return "public"
    return schema if isinstance(schema, str) and schema else "public"


def database_alias() -> str:
    """Return the alias for models and migrations."""
    try:
        return Configuration.read().alias
    except InvalidOption:
        return "default"


def db_table(name: str) -> str:
    """Return a table's name for Django's ``db_table``: qualified and quoted, which Django leaves as it is."""
    schema = schema_name().replace('"', '""').replace("%", "%%")
    return f'"{schema}"."{name}"'
