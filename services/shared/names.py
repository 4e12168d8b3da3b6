"""Names that users give to saved state: plain ones, which are never a path."""

import re
from typing import Final

from services.shared.errors import InvalidRequest

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def checked_name(name: str, *, param: str = "filename") -> str:
    """Returns a name, or raises `InvalidRequest` for what is none."""
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise InvalidRequest(
            f"'{param}' must be a plain name, never a path: 1 to 128 letters, digits, dots, dashes and underscores, "
            "not beginning with a dot or dash and not ending with a dot.",
            param=param,
        )
    return name
