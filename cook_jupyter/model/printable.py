"""Escaping of untrusted text for terminals.

Lives here: `printable`, which every name, message or output of another user passes through before it is shown
as text. Not here: HTML (`notebook.rendering` escapes it), and a user's own output, which may contain colours.

A terminal interprets control characters: they clear the screen, set its title, overwrite earlier lines or
insert input. Other characters change the direction of text, so that it appears to say something else.
"""

import re

# Control characters (C0, DEL, C1); marks that change the direction of text, separate lines, or are invisible;
# lone surrogates, which no terminal can be sent. Joiners stay: scripts and emoji need them.
_UNSAFE = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff"
)
_UNSAFE_IN_LINE = re.compile(f"[{_UNSAFE}]")
_UNSAFE_IN_LINES = re.compile(rf"(?![\n\t])[{_UNSAFE}]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return the text with everything that a terminal would interpret escaped, as in `\x1b`.

    Args:
        text: the untrusted text.
        lines: whether line ends and tabs are kept.
    """
    pattern = _UNSAFE_IN_LINES if lines else _UNSAFE_IN_LINE
    if pattern.search(text) is None:
        return text
    if lines:
        text = text.replace("\r\n", "\n")
    return pattern.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()
