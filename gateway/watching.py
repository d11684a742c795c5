"""Noticing that a file of the configuration has changed, however it was changed.

A file is another one when it is written, when something is moved into its place, and when a link on
the way to it is turned (Kubernetes swaps ``..data``). So what is watched is the folders in which
any of that would happen; whether it did, the files' bytes tell.

Owns: which entries of which folders matter, the thread that watches them.
Does not know: what the files mean, what becomes of the news.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from typing import Final

from watchfiles import watch

from gateway import logs
from gateway.yamltext import FILE_BYTES_MAX, Files

#: How often the files are looked at where nothing is reported, seconds: some file systems (shared
#: over a network, or with a container) report nothing.
LOOK_S: Final = 5.0
#: Changes that follow each other faster than this are one, for a second at most.
_STEP_MS: Final = 100
_DEBOUNCE_MS: Final = 1000
#: After so long without a report it is a turn to look at the files, one of so many.
_QUIET_MS: Final = 1000
_LOOK_TURNS: Final = int(LOOK_S * 1000 / _QUIET_MS)
_LINKS_MAX: Final = 40


class Watch:
    """Calls ``changed`` in the running loop whenever ``files`` are not what they were, again and
    again until it is told by ``follow`` what they are now."""

    def __init__(self, files: Files, changed: Callable[[], None]) -> None:
        self._files = files
        self._changed = changed
        self._entries: set[Path] = set()
        self._closing = False
        # Set where another set of folders is to be watched, or none any more.
        self._again = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # A daemon: where a file system hangs, the process can still end.
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def follow(self, files: Files) -> None:
        """From now on these files are watched."""
        self._files = files
        if entries_of(files) != self._entries:
            self._again.set()

    async def close(self, within_s: float = 1.0) -> None:
        """End the thread."""
        self._closing = True
        self._again.set()
        try:
            async with asyncio.timeout(within_s):
                await self._ended.wait()
        except TimeoutError:
            logs.events.warning("the watching of files does not end")

    def _run(self) -> None:
        failure = ""
        while not self._closing:
            try:
                self._watch()
            except (OSError, RuntimeError) as error:
                # A folder that has gone this moment, or a kernel that watches no more of them.
                if str(error) != failure:
                    failure = str(error)
                    fields = {"error": failure, "looked_at_every_s": LOOK_S}
                    logs.events.warning("files cannot be watched", extra={"fields": fields})
                self._again.wait(LOOK_S)
                self._look()
        self._tell(self._ended.set)

    def _watch(self) -> None:
        """Watch until the entries that matter are others."""
        self._again.clear()
        self._entries = entries = entries_of(self._files)
        folders = {entry.parent for entry in entries}
        matters = {str(path) for path in entries | folders}
        news = watch(
            *folders,
            watch_filter=lambda _, path: path in matters,
            stop_event=self._again,
            recursive=False,
            step=_STEP_MS,
            debounce=_DEBOUNCE_MS,
            rust_timeout=_QUIET_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        )
        for turn, reported in enumerate(news):
            # The first time also for what happened before the kernel was listening.
            if reported or turn % _LOOK_TURNS == 0:
                self._look()
            if entries_of(self._files) != entries:
                return

    def _look(self) -> None:
        if not self._closing and has_changed(self._files):
            self._tell(self._changed)

    def _tell(self, what: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            # The loop has ended without closing this: there is nobody left to tell.
            self._closing = True


def has_changed(files: Files) -> bool:
    """Whether any of the files is not what it was when it was noted."""
    return any(_digest(path) != digest for path, digest in files.items())


def fingerprint(files: Files) -> str:
    """The SHA-256 over the bytes of all files, 64 hex digits; their names do not matter."""
    return sha256(b"".join(filter(None, files.values()))).hexdigest()


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as source:
            return sha256(source.read(FILE_BYTES_MAX + 1)).digest()
    except (OSError, ValueError):  # not there, unreadable, no possible name
        return b""


def entries_of(files: Iterable[Path]) -> set[Path]:
    """Every entry of a real folder that, written, moved or turned, makes one of ``files`` another:
    the file itself and each link on the way to it, or the first part that is not there."""
    entries: set[Path] = set()
    for path in files:
        entries |= _entries(path)
    return entries


def _entries(path: Path) -> set[Path]:
    found = set()
    here, parts = Path("/"), list(path.absolute().parts[1:])
    links = 0
    while parts:
        entry = here / parts.pop(0)
        if entry.name == "..":
            here = here.parent
        elif entry.is_symlink() and links < _LINKS_MAX:
            links += 1
            found.add(entry)
            target = Path(os.readlink(entry))
            here = Path("/") if target.is_absolute() else here
            parts = [*target.parts[1 if target.is_absolute() else 0 :], *parts]
        elif parts and not entry.is_dir():
            found.add(entry)
            return found
        else:
            here = entry
    found.add(here)
    return found
