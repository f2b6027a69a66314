"""Text of other people, made fit for a terminal.

Lives here: `printable`, the one function through which names, messages and output of others go before they
are shown as text. Not here: HTML (`notebook.rendering` escapes it), a user's own output, which may be
coloured.

A terminal obeys control characters: they clear the screen, set its title, forge lines that were printed
before, or make it type. Others change the direction in which text is read, so that it seems to say something
else.
"""

import re

# Control characters (C0, DEL, C1); marks that change the direction of text, separate lines, or are invisible;
# lone surrogates, which no terminal can be sent. Joiners stay: scripts and emoji need them.
_UNFIT = (
    r"\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff"
)
_UNFIT_IN_LINE = re.compile(f"[{_UNFIT}]")
_UNFIT_IN_LINES = re.compile(rf"(?![\n\t])[{_UNFIT}]")


def printable(text: str, *, lines: bool = False) -> str:
    r"""Return text in which what a terminal would obey is written out, as in `\x1b`.

    Args:
        text: text that somebody else may have chosen.
        lines: whether the text may have several lines; line ends and tabs are kept then.
    """
    pattern = _UNFIT_IN_LINES if lines else _UNFIT_IN_LINE
    if pattern.search(text) is None:
        return text
    if lines:
        text = text.replace("\r\n", "\n")
    return pattern.sub(_written_out, text)


def _written_out(unfit: re.Match[str]) -> str:
    return unfit[0].encode("unicode_escape", "surrogatepass").decode("ascii")
