"""YAML read strictly: a key that stands twice is an error, not a silent last word."""

from typing import Any

import yaml

from domainwright.core.errors import ConfigError


class _Strict(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str) -> Any:
    """What the text says.

    Args:
        where: file or option, for messages.

    Raises:
        ConfigError: no valid YAML.
    """
    try:
        return yaml.load(text, _Strict)
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: a date such as 2024-13-45.
        raise ConfigError(
            f"{where} is no valid YAML: {_short(error)}.",
            "correct the line named; values with `:` or `#` need quotes.",
        ) from error


def _short(error: Exception) -> str:
    """The problem and its place, without the lines of text that PyYAML quotes."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    return f"{error.problem} in line {mark.line + 1}, column {mark.column + 1}"


def write_yaml(data: Any) -> str:
    text: str = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return text
