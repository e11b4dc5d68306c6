"""Split the text of a list, a mapping or a sweep into its items, as Hydra's grammar does."""

import re

# A complete quoted item. A backslash escapes only a quote, but `\\` never ends an item either.
QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
PAIR = re.compile(rf"\s*({QUOTED.pattern}|[^:,]+?)\s*:\s*({QUOTED.pattern}|[^,]+?)\s*(?:,|$)", re.DOTALL)
MAPPING_KEY = re.compile(r"""[^,:'"\[\]{}]*:""")
END = re.compile(r"\s*(,|$)")  # of an item


def split(text: str, mapping: bool = False) -> list[str]:
    """The items between the commas that are outside of quotes and brackets. A last empty item does not count.

    Args:
        mapping: whether the items are `KEY: VALUE`.
    """
    items, start = [], 0
    while start < len(text):
        key = MAPPING_KEY.match(text, start) if mapping else None
        first = len(text) - len(text[key.end() if key else start :].lstrip())
        quoted = QUOTED.match(text, first)
        close = quoted.end() if quoted else closing(text, first)
        if close is None or not (end := END.match(text, close)):
            end = re.compile(r"[^,]*(,|$)", re.DOTALL).match(text, start)
        assert end is not None
        items.append(text[start : end.start(1)])
        start = end.end()
    return items


def closing(text: str, start: int = 0) -> int | None:
    """The position after the bracket that closes the list or mapping at `start`; None if there is none."""
    depth, i, is_first = 0, start, True
    if text[start : start + 1] not in ("[", "{"):
        return None
    while i < len(text):
        character = text[i]
        if is_first and (quoted := QUOTED.match(text, i)):
            i = quoted.end()
            is_first = False
            continue
        if character in "[{":
            depth += 1
        elif character in "]}":
            depth -= 1
            if depth == 0:
                return i + 1
        is_first = character in "[{,:" or (is_first and character.isspace())
        i += 1
    return None


def read_pairs(text: str) -> dict[str, str | None] | None:
    """The mapping `{NAME: NAME, 'A:B': null}` with its names as typed, without quotes; None if it is not one."""
    pairs: dict[str, str | None] = {}
    if closing(text) != len(text) or text[0] != "{":
        return None
    inner, start = text[1:-1], 0
    while start < len(inner):
        pair = PAIR.match(inner, start)
        if pair is None:
            return None
        pairs[_unquote(pair[1])] = None if pair[2] == "null" else _unquote(pair[2])
        start = pair.end()
    return pairs


def _unquote(text: str) -> str:
    return re.sub(r"""\\(['"\\])""", r"\1", text[1:-1]) if QUOTED.fullmatch(text) else text


def split_pair(text: str) -> tuple[str, str] | None:
    """The key and the value of an item of a mapping; None if there is no colon."""
    key, colon, value = text.partition(":")
    return (key.strip(), value) if colon else None
