"""A way through closed directories for one system user, when root starts the embedded server.

PostgreSQL refuses to run as root, so another user must reach its programs and its data, which may
lie below a directory that nobody else enters, such as /root. That one user is let pass through it
by an access control list (acl(5)): it can list and read nothing more, and nobody else anything.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
from pathlib import Path

log = logging.getLogger("engram.embedded")

_ATTRIBUTE = "system.posix_acl_access"
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")  # tag, permissions, id
_VERSION = 2
_OWNER, _USER, _GROUP, _MASK, _OTHERS = 0x01, 0x02, 0x04, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_PASS = 1

Entries = dict[tuple[int, int], int]
"""Permissions by tag and id."""


def open_way(folder: Path, uid: int) -> Path | None:
    """Let a user pass to a directory and through it; the one that cannot be opened, if any."""
    for place in (folder, *folder.parents):
        if _passes(place, uid):
            continue
        try:
            _grant(place, uid)
        except (OSError, AttributeError):  # a file system, or a system, without such lists
            return place
        log.warning(
            "The user %d, as whom PostgreSQL runs, may pass through %s from now on; "
            "`setfacl -x u:%d %s` takes that back.",
            uid, place, uid, place,
        )  # fmt: skip
    return None


def _passes(place: Path, uid: int) -> bool:
    found = place.stat()
    if found.st_uid == uid:
        return bool(found.st_mode & stat.S_IXUSR)
    entries = _entries(place)
    if (_USER, uid) in entries:
        return bool(entries[_USER, uid] & entries[_MASK, _NOBODY] & _PASS)
    return bool(found.st_mode & stat.S_IXOTH)


def _entries(place: Path) -> Entries:
    """The access control list of a directory, or its mode as one."""
    try:
        packed = os.getxattr(place, _ATTRIBUTE)
    except (OSError, AttributeError):
        mode = place.stat().st_mode
        return {
            (_OWNER, _NOBODY): mode >> 6 & 7,
            (_GROUP, _NOBODY): mode >> 3 & 7,
            (_OTHERS, _NOBODY): mode & 7,
        }
    return {(tag, id): mode for tag, mode, id in _ENTRY.iter_unpack(packed[_HEADER.size :])}


def _grant(place: Path, uid: int) -> None:
    entries = _entries(place)
    most = entries.get((_MASK, _NOBODY), entries[_GROUP, _NOBODY])
    entries |= {(_USER, uid): _PASS, (_MASK, _NOBODY): most | _PASS}
    packed = [_ENTRY.pack(tag, mode, id) for (tag, id), mode in sorted(entries.items())]
    os.setxattr(place, _ATTRIBUTE, _HEADER.pack(_VERSION) + b"".join(packed))
