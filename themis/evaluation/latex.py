r"""The parts of LaTeX that answers are written in: `\boxed{...}` and what surrounds it.

>>> last_boxed(r"So \boxed{1} or rather \boxed{\frac{1}{2}}.")
'\\frac{1}{2}'
"""

import re

# One pass with a stack: a model in a loop may open thousands of boxes and close none.
_TOKEN = re.compile(r"(?P<box>\\f?boxed\s*\{)|\\f?boxed\s*(?P<bare>\w)|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""Return what the last complete `\boxed{...}` holds, nested braces included.

    A box without braces holds the character that follows, as in TeX. A box that is not closed
    (an output that was cut off) is passed over.
    """
    best, content = -1, None
    openings: list[tuple[int, bool]] = []
    for token in _TOKEN.finditer(text):
        if token["box"]:
            openings.append((token.end(), True))
        elif token["bare"]:
            best, content = token.end(), token["bare"]
        elif token[0] == "{":
            openings.append((token.end(), False))
        elif token[0] == "}" and openings:
            start, is_box = openings.pop()
            if is_box and start > best:
                best, content = start, text[start : token.start()].strip()
    return content
