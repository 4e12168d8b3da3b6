"""Regular expressions for the formats of JSON Schema that a grammar can hold. Sources: RFC 3339, 4122, 5321, 2673."""

from typing import Final

_DATE: Final = (
    r"[1-9]\d{3}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
)
_TIME: Final = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)"
_BYTE: Final = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_LABEL: Final = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = rf"{_LABEL}(\.{_LABEL}){{0,9}}"

FORMATS: Final = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f"{_DATE}T{_TIME}",
    "duration": r"P(\d{1,9}W|\d{1,9}D(T\d{1,9}[HMS])?|T\d{1,9}([HMS]|H\d{1,9}M|M\d{1,9}S|H\d{1,9}M\d{1,9}S)|\d{1,9}Y)",
    "uuid": r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}",
    "ipv4": rf"{_BYTE}(\.{_BYTE}){{3}}",
    "ipv6": r"[0-9a-fA-F]{1,4}(:[0-9a-fA-F]{1,4}){7}",
    "hostname": _HOST,
    "email": rf"[A-Za-z0-9_+-]{{1,30}}(\.[A-Za-z0-9_+-]{{1,30}})?@{_HOST}\.[A-Za-z]{{2,10}}",
    "uri": r"[a-z][a-z0-9+.-]{0,15}://[A-Za-z0-9._~:/?#@!$&'()*+,;=%-]{1,2000}",
}
"""Each narrower than its format: whatever matches is valid."""
