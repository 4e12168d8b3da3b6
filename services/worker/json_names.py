"""GBNF for the names of properties that are not declared. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from services.worker.characters import ANY, Ranges, gbnf_class, without

# Names with escapes are left out: an escape could spell a declared name.
_PLAIN: Ranges = without(without(without(ANY, 0, 0x1F), 0x22, 0x22), 0x5C, 0x5C)
_ANY_PLAIN = gbnf_class(_PLAIN)


@dataclass
class _Node:
    """Where declared names go on."""

    following: "dict[str, _Node]" = field(default_factory=dict)
    ends_a_name: bool = False


def other_names(declared: Sequence[str], add_rule: Callable[[str], str]) -> str:
    """A rule for all names of plain characters but the declared ones; `add_rule` names an expression."""
    root = _Node()
    nodes = [root]
    for name in declared:
        node = root
        for character in name:
            if character not in node.following:
                node.following[character] = _Node()
                nodes.append(node.following[character])
            node = node.following[character]
        node.ends_a_name = True
    rules: dict[int, str] = {}
    for node in reversed(nodes):  # children come after their parents
        rules[id(node)] = add_rule(_beyond(node, rules))
    return rules[id(root)]


def _beyond(node: _Node, rules: dict[int, str]) -> str:
    """How a name goes on that began like declared ones."""
    others = _PLAIN
    forms = []
    for character, following in node.following.items():
        others = without(others, ord(character), ord(character))
        if character not in '"\\' and ord(character) > 0x1F:
            forms.append(f"{gbnf_class(((ord(character), ord(character)),))} {rules[id(following)]}")
    forms.insert(0, f"{gbnf_class(others)} {_ANY_PLAIN}*")
    expression = " | ".join(forms)
    return expression if node.ends_a_name else f"({expression})?"
