"""Frozen dataclasses of settings from parsed TOML tables, with errors that name the setting."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_type_hints

from leakcache.errors import ConfigError

_LISTS: dict[Any, tuple[type, str]] = {
    tuple[int, ...]: (int, "a list of whole numbers"),
    tuple[str, ...]: (str, "a list of names"),
}


def with_fields(section: Any, table: Mapping[str, Any], prefix: str, source: str) -> Any:
    """A frozen dataclass with the fields that a parsed TOML table names.

    Args:
        section: fields that the table does not name stay as they are here.
        table: values by field.
        prefix: what stands before a field's name in errors.
        source: file or flag, named in errors.

    Raises:
        ConfigError: a key is no field, or a value is of the wrong type or out of range.
    """
    kinds = get_type_hints(type(section))
    changes = {}
    for key, value in table.items():
        refuse_unknown(key, list(kinds), f"{prefix}.{key}", source)
        changes[key] = coerce(value, kinds[key], f"{prefix}.{key}", source)
    try:
        return replace(section, **changes)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def refuse_unknown(key: str, valid: list[str], shown: str, source: str) -> None:
    """Refuse a key that is not valid, naming the nearest that is.

    Raises:
        ConfigError: in one line, with the key as `shown`.
    """
    if key not in valid:
        nearest = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
        prefix = shown.removesuffix(key)
        raise ConfigError(f"{source}: {shown} is no setting; the nearest is {prefix}{nearest}")


def coerce(value: Any, kind: Any, key: str, source: str) -> Any:
    """Accept a TOML value for a field of the given type; only int to float is converted."""
    if kind is float and type(value) is int:
        return float(value)
    if kind in _LISTS:
        items = value if isinstance(value, list | tuple) else [value]
        if all(type(item) is _LISTS[kind][0] for item in items):
            return tuple(items)
    elif type(value) is kind:
        return value
    expected = _LISTS[kind][1] if kind in _LISTS else f"of type {kind.__name__}"
    raise ConfigError(f"{source}: {key} = {value!r} must be {expected}")


def parse_override(text: str) -> tuple[str, str, Any]:
    """Section, name and value of a setting such as "train.epochs=20".

    Values are TOML, bare words or lists such as 0,5,10.

    Raises:
        ConfigError: the text is malformed.
    """
    key, equals, raw = (part.strip() for part in text.partition("="))
    section, dot, name = key.partition(".")
    if not (equals and dot and name and raw):
        raise ConfigError(f"--set {text} is malformed: write it as train.epochs=20")
    return section, name, _parse_value(raw)


def _parse_value(raw: str) -> Any:
    for candidate in (raw, f"[{raw}]" if "," in raw else raw):
        try:
            return tomllib.loads(f"value = {candidate}")["value"]
        except tomllib.TOMLDecodeError:
            continue
    return raw
