"""Exceptions that end a command, the exit code of each, and the wording of their messages."""

from __future__ import annotations

import difflib
import sys
import traceback
from collections.abc import Iterable
from traceback import walk_tb
from types import FrameType

LONGEST_VALUE = 120  # characters of a value in a message
USER_MODULES: set[str] = set()  # names of modules with plug-ins that are not p2psim's own
SMALLER_STEPS = "lower the learning rate, or the step size of the algorithm"  # cure of a divergence
STOPPED = 4  # exit code of a run that was stopped on request


class InputError(Exception):
    """Wrong user input; the message names the value, the allowed values and the remedy."""

    exit_code = 2
    # Mostly every rank reads the same input and raises the same error, so rank 0 alone reports it.
    report_from_any_rank = False


class PeerError(Exception):
    """Failure of a peer; the message names the peer, the phase and the cause.

    `recorded` is True if the cause stands in a peer's file; the launcher prints it from there.
    """

    exit_code = 3
    report_from_any_rank = True

    def __init__(self, text: str, recorded: bool = True) -> None:
        super().__init__(text)
        self.recorded = recorded


class StoppedError(Exception):
    """End of a run on request, after it wrote a checkpoint that --resume continues from.

    `signal` is the number of the signal that requested it, 0 if it was no signal to this process.
    """

    exit_code = STOPPED

    def __init__(self, text: str = "", signal: int = 0) -> None:
        super().__init__(text)
        self.signal = signal


class AbortedError(Exception):
    """End of this peer because another peer failed and reports the error; this peer is silent."""

    exit_code = 2  # mostly of a refusal: a failure of a peer ends all ranks by an abort
    report_from_any_rank = False


class ReturnValueError(TypeError):
    """Value that a method of a plug-in must not return; messages name the class of `plugin`."""

    def __init__(self, text: str, plugin: object) -> None:
        super().__init__(text)
        self.obj = plugin


def spelled(value: object) -> str:
    """Return a value as an experiment file spells it, with strings in single quotes."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        entries = ", ".join(f"{key} = {spelled(inner)}" for key, inner in value.items())
        return f"{{{entries}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(spelled, value))}]"
    return repr(value)


def quoted(value: object) -> str:
    """Return a value for a message; "..." replaces the middle of a long one."""
    text = spelled(value)
    if len(text) <= LONGEST_VALUE:
        return text
    return f"{text[: LONGEST_VALUE * 2 // 3]}...{text[-LONGEST_VALUE // 3 :]}"


def printable(text: str) -> str:
    """Return a text in which escapes stand for line breaks and other control characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def exit_code(end: SystemExit) -> int:
    """Return the exit code of a process that ends by this exception, as Python chooses it."""
    return end.code if isinstance(end.code, int) else int(end.code is not None)


def in_one_line(error: BaseException) -> str:
    """Return the type and the text of an unexpected exception in one line.

    For the end of a debugger, return the reason instead.
    """
    name = type(error).__name__
    if name == "BdbQuit":  # pdb has read the end of its input, or its user has ended it
        return "the debugger has ended; breakpoints need a terminal: run with --debug"
    return f"{name}: {error}".replace("\n", " ").removesuffix(": ")


def location(frames: Iterable[tuple[FrameType, int]]) -> str:
    """Return "FILE line N" of the first frame in a user's plug-in, "" if there is none."""
    for frame, line in frames:
        if frame.f_globals.get("__name__") in USER_MODULES:
            return f"{frame.f_code.co_filename} line {line}"
    return ""


def origin(error: BaseException) -> str:
    """Return where in a user's plug-in an error started, "" if it started elsewhere.

    "FILE line N" of the innermost frame outside p2psim; or, if a class of the plug-in lacks a
    method, "method M of class C of FILE" or "class C of FILE". The deepest cause counts first.
    """
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in chain:
        chain.append(following)
        following = following.__cause__ or following.__context__
    for link in reversed(chain):
        frames = list(walk_tb(link.__traceback__))
        if place := location(reversed(frames)):
            return place
        lacking = [(getattr(link, "obj", None), "")]  # of an AttributeError or ReturnValueError
        for frame, _ in frames[-1:]:  # an interface's method that the class does not define
            lacking.append((frame.f_locals.get("self"), f"method {frame.f_code.co_name} of "))
        for owner, method in lacking:
            if type(owner).__module__ in USER_MODULES:
                file = getattr(sys.modules[type(owner).__module__], "__file__", "")
                return f"{method}class {type(owner).__name__} of {file}"
    return ""


def with_origin(text: str, error: BaseException) -> str:
    """Return the text of an error, followed by its origin if the text does not contain it yet."""
    where = origin(error)
    return f"{text} ({where})" if where and where not in text else text


def print_traceback(error: BaseException) -> None:
    """Print the traceback of an error and of all its causes, also hidden ones, on stderr."""
    link: BaseException | None = error
    while link is not None:
        link.__suppress_context__ = False  # "from None" hides causes from a plain message only
        link = link.__cause__ or link.__context__
    traceback.print_exception(error)


def notice(text: str) -> None:
    """Print a message that reports no error on stderr."""
    print(f"p2psim: {text}", file=sys.stderr, flush=True)


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Return the end of an error message about an unknown `name`: the nearest and all valid ones.

    The result reads "did you mean 'ring'? allowed: grid, ring", or "nothing is allowed here".
    """
    names = sorted(allowed)
    if not names:
        return "nothing is allowed here; remove it"
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(names)}"
