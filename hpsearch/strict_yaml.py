"""A user's YAML -> plain data, strictly: what YAML lets pass but nobody means is an error here."""

from __future__ import annotations

import os.path
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from search_spaces.errors import UserError, one_line

MAX_FILE_BYTES = 65_536  # what we read is a page; a larger file is a mistake or an attack


class StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader without repeated keys, aliases, tags and dates; it reads 3e-4 as a number."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":merge", ":value"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]  # of PyYAML
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):  # a page of nested aliases can stand for gigabytes
            raise yaml.MarkedYAMLError(None, None, f"aliases are refused, got *{event.anchor}", mark)
        if getattr(event, "tag", None):
            raise yaml.MarkedYAMLError(None, None, f"tags are refused, got {event.tag}", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:  # which YAML forbids and PyYAML lets pass
                raise yaml.MarkedYAMLError(None, None, f"key {key.value!r} appears twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 3e-4 as a string; every float a person would write is a float here.
StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Args:
        path: the file.
        what: what it should be, for the message: "search file".

    Raises:
        UserError: the file is absent, too large, not YAML, or holds something else.
    """
    if not os.path.isfile(path):  # unlike Path.is_file it takes any text for a path
        raise UserError(one_line(f"{path}: no such {what}; give the path of a YAML file"))
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror}); check its permissions") from error
    if len(raw) > MAX_FILE_BYTES:
        raise UserError(f"{path}: must be at most {MAX_FILE_BYTES:,} bytes, got more; a {what} is a page")
    try:
        data = yaml.load(raw.decode("utf-8"), Loader=StrictLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8, or an endless integer
        raise UserError(one_line(f"{path}: {_complaint(error)}")) from error
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: must be a mapping of keys, got {type(data).__name__}; a {what} has `key: value` lines"
        )
    return data


def _complaint(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply for YAML; flatten it"
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"not readable as YAML: {error}; correct it"
    return f"line {mark.line + 1}: not readable as YAML: {getattr(error, 'problem', error)}; correct that line"
