"""Fetches a face parser from a model hub: a pinned revision, checked, resumed, and put in place whole."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .parser_model import CONFIG, PREPROCESSOR, WEIGHTS

# hidden from the list of models, on the same disk as they
INCOMING = ".incoming"
_BLOCK = 2**20


@dataclass(frozen=True)
class Pin:
    """A model on the hub: its repository, a commit (40 hex digits), and its files with their SHA-256.

    The hub gives a SHA-256 for large files only. A file without one must have the git blob id that the hub
    names for it at the commit, and is text that no code runs from.
    """

    repository: str
    revision: str
    files: Mapping[str, str | None]

    @property
    def name(self) -> str:
        """The folder that the model goes to."""
        return self.repository.replace("/", "--")


# the SHA-256 as the hub's page of model.safetensors gives it for this and other commits; a copy of the file
# in another repository has the same
FACE_PARSER = Pin(
    "jonathandinu/face-parsing",
    "1f7e152e1efbfe03ce6c2637944a1f6a41bfcd0a",
    {
        CONFIG: None,
        PREPROCESSOR: None,
        WEIGHTS: "c2bec795a8c243db71bd95be538fd62559003566466c71237e45c99b920f4b62",
    },
)


class Cancelled(Exception):
    """The user has stopped the download; what has arrived is kept."""


def fetch(pin: Pin, folder: Path, progress: Callable[[int, int], object] = max) -> Path:
    """Return the folder of a pinned model under `folder`, fetched with huggingface_hub if it is not there.

    progress(bytes there, bytes of the file) is called as they arrive and may raise Cancelled. What has
    arrived is kept and gone on with, unless its checksum is wrong. HF_ENDPOINT, HF_HUB_OFFLINE and the
    hub's other variables are honoured; no token is sent. Raises ValueError that says what is wrong and what
    to do.
    """
    place = folder / pin.name
    if all((place / name).is_file() for name in pin.files):
        return place
    if place.exists():
        raise ValueError(
            f"{place} is there, but not all of {', '.join(pin.files)}: remove it, then download again."
        )
    with _reasons(folder):
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise ValueError(
                "downloads are switched off (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set): unset it and "
                f"restart ComfyUI, or copy {', '.join(pin.files)} of {pin.repository} into {place} by hand."
            )
        stage = folder / INCOMING / pin.name / pin.revision
        stage.mkdir(parents=True, exist_ok=True)
        for name, digest in pin.files.items():
            _fetch_file(pin, name, digest, stage / name, progress)
        stage.rename(place)
        shutil.rmtree(folder / INCOMING / pin.name, ignore_errors=True)
        if not any((folder / INCOMING).iterdir()):
            (folder / INCOMING).rmdir()
    return place


def _fetch_file(
    pin: Pin, name: str, digest: str | None, target: Path, progress: Callable[[int, int], object]
) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    about = get_hf_file_metadata(
        hf_hub_url(pin.repository, name, revision=pin.revision),
        token=False,
        timeout=constants.HF_HUB_ETAG_TIMEOUT,
    )
    where = f"{name} of {pin.repository} at {constants.ENDPOINT}"
    if about.commit_hash not in (None, pin.revision) or not about.size:
        raise ValueError(
            f"{where} is not of the commit {pin.revision[:8]} or has no size: that server is no full mirror "
            "of the hub; set HF_ENDPOINT to another, or unset it."
        )
    if target.is_file() and _is_whole(target, digest, about.etag):
        return
    expected = digest if len(about.etag or "") == 64 else about.etag
    if digest and about.etag != expected:
        raise ValueError(
            f"{where} has the checksum {about.etag[:12]}..., not {digest[:12]}...: it is another file, so "
            "nothing was downloaded. Set HF_ENDPOINT to another server, or unset it."
        )
    partial = target.with_name(f"{name}.part")
    with open(partial, "ab") as file:
        there = file.tell()
        if there > about.size:
            file.truncate(0)
            there = 0
        if about.size - there > shutil.disk_usage(target.parent).free:
            raise OSError(errno.ENOSPC, "not enough room")
        if there < about.size:
            headers = {**build_hf_headers(token=False), "Accept-Encoding": "identity"}
            arriving: Any = _Counted(file, lambda count: progress(count, about.size))
            http_get(
                about.location, arriving, resume_size=there, headers=headers, expected_size=about.size
            )
    if not _is_whole(partial, digest, about.etag):
        partial.unlink()
        raise ValueError(
            f"{where} arrived with a wrong checksum and was deleted: download again; if it happens again, "
            "set HF_ENDPOINT to another server, or unset it."
        )
    partial.replace(target)


def _is_whole(file: Path, digest: str | None, etag: str | None) -> bool:
    """Tell whether a file has its SHA-256, or the git blob id that the hub names, where it names one."""
    if digest is None and len(etag or "") != 40:
        return True
    # SHA-1 is what git names files by
    running = hashlib.sha256() if digest else hashlib.sha1(usedforsecurity=False)
    if not digest:
        running.update(f"blob {file.stat().st_size}\0".encode())
    with open(file, "rb") as opened:
        while block := opened.read(_BLOCK):
            running.update(block)
    return running.hexdigest() == (digest or etag)


class _Counted:
    """A file that tells how much it holds after each write."""

    def __init__(self, file: BinaryIO, told: Callable[[int], object]) -> None:
        self._file, self._told = file, told
        self.name = file.name
        self.seek, self.tell, self.flush = file.seek, file.tell, file.flush

    def write(self, block: bytes) -> int:
        written = self._file.write(block)
        self._told(self._file.tell())
        return written

    def truncate(self, *size: int) -> int:
        return self._file.truncate(*size)


@contextmanager
def _reasons(folder: Path) -> Iterator[None]:
    """Turn what huggingface_hub and the disk raise into a sentence with the fix."""
    from huggingface_hub import constants
    from huggingface_hub.utils import HfHubHTTPError

    try:
        yield
    except (ValueError, Cancelled) as error:
        if type(error) in (ValueError, Cancelled):
            raise
        problem: Exception = error
    except HfHubHTTPError as error:
        code = getattr(error.response, "status_code", "no status")
        gone = " The model has moved, or this mirror does not have it." if code in (401, 403, 404) else ""
        raise ValueError(
            f"{constants.ENDPOINT} answered with an error ({code}).{gone} Try again later, or set "
            "HF_ENDPOINT to another server."
        ) from error
    except Exception as error:  # of httpx, requests or urllib3, by the version of huggingface_hub
        problem = error
    else:
        return
    if isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS):
        raise ValueError(
            f"{folder} cannot be written ({problem.strerror}): make room, or check its permissions."
        ) from problem
    first = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
    raise ValueError(
        f"{constants.ENDPOINT} cannot be reached or stopped answering ({first}): check the connection and "
        "download again; what has arrived is kept."
    ) from problem
