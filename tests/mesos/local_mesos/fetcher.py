"""Stand in for `mesos-fetcher`: copy the URIs of a task into its sandbox.

The agent describes the work as JSON in the variable MESOS_FETCHER_INFO. Implemented are absolute paths, and
the schemes file, http, https and ftp; `extract`, `executable`, `output_file`, and the cache of the agent. Not
implemented: HDFS.

Standard library only: it runs without site-packages.
"""

import gzip
import json
import os
import shutil
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

_ARCHIVES = (".tar", ".tgz", ".tar.gz", ".tbz2", ".tar.bz2", ".txz", ".tar.xz", ".zip")


def fetch(item: dict[str, Any], info: dict[str, Any]) -> None:
    """Fetch one URI.

    Args:
        item: the URI, and whether it comes from, goes to or bypasses the cache.
        info: the FetcherInfo.
    """
    uri, action = item["uri"], item["action"]
    value = uri["value"].lstrip()
    sandbox = Path(info["sandbox_directory"])
    target = sandbox / (uri.get("output_file") or Path(urllib.parse.urlsplit(value).path).name)
    target.parent.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {value!r} ({action})", file=sys.stderr)

    source = target
    if action != "BYPASS_CACHE":
        cache = Path(info["cache_directory"])
        cache.mkdir(parents=True, exist_ok=True)
        source = cache / item["cache_filename"]
    if action != "RETRIEVE_FROM_CACHE":
        timeout_s = info.get("stall_timeout", {}).get("nanoseconds", 60e9) / 1e9
        _download(value, source, info.get("frameworks_home"), timeout_s)

    executable = uri.get("executable", False)
    extracted = not executable and uri.get("extract", True) and _extract(source, sandbox)
    if source != target and not extracted:
        shutil.copyfile(source, target)
    if executable:
        target.chmod(0o755)


def _download(uri: str, target: Path, home: str | None, timeout_s: float) -> None:
    if uri.startswith("file://"):
        uri = urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
    if "://" not in uri:
        shutil.copyfile(Path(home or "/", uri), target)
        return
    with urllib.request.urlopen(uri, timeout=timeout_s) as source, target.open("wb") as output:
        shutil.copyfileobj(source, output)


def _extract(archive: Path, directory: Path) -> bool:
    """Unpack an archive; return whether it is one."""
    if archive.name.endswith(_ARCHIVES):
        shutil.unpack_archive(archive, directory)
        return True
    if archive.suffix == ".gz":
        with gzip.open(archive) as source, (directory / archive.stem).open("wb") as output:
            shutil.copyfileobj(source, output)
        return True
    return False


def main() -> None:
    """Fetch all URIs, and give them to the user of the task."""
    info = json.loads(os.environ["MESOS_FETCHER_INFO"])
    try:
        for item in info["items"]:
            fetch(item, info)
        if info.get("user") and os.getuid() == 0:
            for directory, _, files in os.walk(info["sandbox_directory"]):
                for name in ["", *files]:
                    shutil.chown(Path(directory, name), info["user"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the agent reports this line
        sys.exit(f"Failed to fetch: {error}")
    print("Successfully fetched all URIs", file=sys.stderr)


if __name__ == "__main__":
    main()
