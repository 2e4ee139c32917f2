"""The files that GraphiQL is made of, fetched once at set-up: ``python -m server.assets``.

They come from npm packages pinned by a lock file with checksums, and are served by Engram itself.
Where npm is missing the page takes the same files from a CDN, and the browser checks them.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ASSETS", "STATIC", "Asset", "AssetsError", "install", "installed"]

HERE = Path(__file__).parent
SOURCES = HERE / "web"
STATIC = HERE / "static"
CDN = "https://cdn.jsdelivr.net/npm"
LOCK_FILES = ("package.json", "package-lock.json", ".npmrc")
# Without a network npm alone would try for minutes, and say nothing.
NPM = ("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
NPM_RETRIES = ("--fetch-retries=1", "--fetch-retry-mintimeout=1000")


class AssetsError(Exception):
    """The files could not be fetched; the message says why."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of one package, known by its checksum. The version is the lock file's."""

    package: str
    version: str
    file: str
    integrity: str

    @property
    def name(self) -> str:
        return Path(self.file).name

    @property
    def url(self) -> str:
        """Where it is when it is not here."""
        return f"{CDN}/{self.package}@{self.version}/{self.file}"

    def is_in(self, folder: Path) -> bool:
        path = folder / self.name
        if not path.is_file():
            return False
        digest = hashlib.sha384(path.read_bytes()).digest()
        return self.integrity == f"sha384-{base64.b64encode(digest).decode()}"


# In the order in which a page loads them.
ASSETS = (
    Asset(
        "react",
        "18.3.1",
        "umd/react.production.min.js",
        "sha384-DGyLxAyjq0f9SPpVevD6IgztCFlnMF6oW/XQGmfe+IsZ8TqEiDrcHkMLKI6fiB/Z",
    ),
    Asset(
        "react-dom",
        "18.3.1",
        "umd/react-dom.production.min.js",
        "sha384-gTGxhz21lVGYNMcdJOyq01Edg0jhn/c22nsx0kyqP0TxaV5WVdsSH1fSDUf5YJj1",
    ),
    Asset(
        "graphql-ws",
        "5.16.2",
        "umd/graphql-ws.min.js",
        "sha384-+EVxFEOpy8LWPRQcpntm0FKN2O+BzrMNSL0G3HIgVWFmeb6xqZqjuLivrQUTXZKi",
    ),
    Asset(
        "graphiql",
        "3.8.3",
        "graphiql.min.js",
        "sha384-HbRVEFG0JGJZeAHCJ9Xm2+tpknBQ7QZmNlO/DgZtkZ0aJSypT96YYGRNod99l9Ie",
    ),
    Asset(
        "graphiql",
        "3.8.3",
        "graphiql.min.css",
        "sha384-Mq3vbRBY71jfjQAt/DcjxUIYY33ksal4cgdRt9U/hNPvHBCaT2JfJ/PTRiPKf0aM",
    ),
)


def installed(folder: Path = STATIC) -> bool:
    """Whether every file is there and is the right one."""
    return all(asset.is_in(folder) for asset in ASSETS)


def install(folder: Path = STATIC, *, seconds: float = 300) -> None:
    """Fetch the packages with npm and keep the files that the page needs. Raises AssetsError."""
    npm = shutil.which("npm")
    if npm is None:
        raise AssetsError("npm is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        for name in LOCK_FILES:
            shutil.copy(SOURCES / name, scratch)
        try:
            subprocess.run(  # noqa: S603
                [npm, *NPM, *NPM_RETRIES],
                cwd=scratch,
                check=True,
                capture_output=True,
                text=True,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            raise AssetsError(f"npm did not finish within {seconds:g} seconds") from None
        except subprocess.CalledProcessError as error:
            # The first line has npm's code; the last says only where its log is.
            said = error.stderr.strip().splitlines() or [f"status {error.returncode}"]
            raise AssetsError(f"npm failed: {said[0].removeprefix('npm error ')}") from None
        folder.mkdir(parents=True, exist_ok=True)
        for asset in ASSETS:
            source = Path(scratch, "node_modules", asset.package, asset.file)
            # Copied aside and renamed: a server that runs never reads half a file.
            partial = folder / f"{asset.name}.partial"
            shutil.copy(source, partial)
            partial.replace(folder / asset.name)
    if not installed(folder):
        raise AssetsError("the files of the packages are not the expected ones")


def main() -> int:
    if installed():
        return 0
    sys.stderr.write("Fetching GraphiQL with npm …\n")
    try:
        install()
    except AssetsError as error:
        sys.stderr.write(f"GraphiQL will come from a CDN: {error}.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
