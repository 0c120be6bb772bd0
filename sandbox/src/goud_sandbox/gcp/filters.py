"""List parameters: Google's ``filter`` expressions (the part with AND) and pages."""

from __future__ import annotations

import re
from typing import Any

from goud_sandbox.documents import Document
from goud_sandbox.gcp.collection import Query
from goud_sandbox.gcp.errors import ApiError, invalid

Term = tuple[str, str, str]
TERM = re.compile(
    r"""\(?\s*(?P<field>[\w.-]+)\s*(?P<operator>!=|=|:|\beq\b|\bne\b)\s*(?P<value>"[^"]*"|'[^']*'|[^\s()]+)\s*\)?"""
)


def value(document: Document, path: str) -> Any:
    """The field at a dotted path; None when it is missing."""
    node: Any = document
    for part in path.split("."):
        if not isinstance(node, dict) or part not in node:
            return None
        node = node[part]
    return node


def _holds(document: Document, field: str, operator: str, operand: str) -> bool:
    content = value(document, field)
    text = str(content).lower() if isinstance(content, bool) else str(content)
    if operator == ":":
        return content is not None and (operand == "*" or operand in text)
    if operator in {"eq", "ne"}:
        same = content is not None and re.fullmatch(operand, text) is not None
    else:
        same = content is not None and _equal(text, operand)
    return same if operator in {"=", "eq"} else not same


def _equal(text: str, pattern: str) -> bool:
    """``*`` in the value stands for anything."""
    return re.fullmatch(".*".join(re.escape(part) for part in pattern.split("*")), text) is not None


def parse(expression: str) -> list[Term]:
    """Field, operator and value of every term; 400 for what the sandbox does not understand."""
    terms: list[Term] = []
    rest = expression.strip()
    while rest:
        rest = re.sub(r"^AND\b", "", rest).strip()
        term = TERM.match(rest)
        if not term or re.match(r"(OR|NOT)\b", rest):
            raise invalid("filter", expression, "The sandbox understands field=value, !=, :, eq, ne, joined by AND.")
        terms.append((term["field"], term["operator"], term["value"].strip("\"'")))
        rest = rest[term.end() :].strip()
    return terms


def page(items: list[Document], query: Query) -> tuple[list[Document], str | None]:
    """The documents of one page, filtered, and the token of the next."""
    terms = parse(query.get("filter", ""))
    matches = [item for item in items if all(_holds(item, *term) for term in terms)]
    try:
        start, size = int(query.get("pageToken", "0")), int(query.get("maxResults", "500"))
    except ValueError:
        raise ApiError(400, "invalid", "Invalid page token or maxResults.") from None
    rest = str(start + size) if len(matches) > start + size else None
    return matches[start : start + size], rest
