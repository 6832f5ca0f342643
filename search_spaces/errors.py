"""The error that a user sees: what is wrong, where, by which rule, and what to do."""

from __future__ import annotations

MAX_LINE_CHARACTERS = 400


class UserError(ValueError):
    """A mistake in something the user gave: a file, a flag, a table, a name. Exit code 2, no traceback.

    The message reads "where: key: rule, got value; remedy" and fits one screen.
    """


def one_line(text: str) -> str:
    """Text that may quote anything a user gave -> one printable line; a long one loses its middle, not its remedy."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    if len(printable) <= MAX_LINE_CHARACTERS:
        return printable
    return f"{printable[: MAX_LINE_CHARACTERS // 2]} ... {printable[-MAX_LINE_CHARACTERS // 2 :]}"
