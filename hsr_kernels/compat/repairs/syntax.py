# SPDX-License-Identifier: Apache-2.0
"""What a Python file's syntax tree says about names."""

import ast
from collections.abc import Iterable, Mapping


def dotted(node: ast.AST, aliases: Mapping[str, str]) -> str:
    """Returns a name with dots, "numpy.float"; an empty string for any other expression.

    Args:
        node: Of a syntax tree.
        aliases: What names stand for: {"np": "numpy"}.
    """
    if isinstance(node, ast.Name):
        return aliases.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (start := dotted(node.value, aliases)):
        return f"{start}.{node.attr}"
    return ""


def imports(node: ast.AST) -> list[str]:
    """Returns the modules that a statement imports, and with dots the names that it takes from one."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names if alias.name != "*")]
    return []


def aliases_of(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Returns what the names that a file's imports bind stand for: {"np": "numpy", "F": "torch.nn.functional"}."""
    found: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return found
