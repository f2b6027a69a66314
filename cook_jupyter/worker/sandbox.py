"""Sandboxes: the directory of an instance, with its stdout and stderr.

Lives here: creating them, and reusing those to which nothing was written.
Not here: what runs in them (`worker.runner`), reading their files (the scheduler's log routes).

Creating a directory with two files takes a third of a millisecond on a common disk, renaming it a hundredth.
So a worker keeps a spare one, gives it the instance's name, and takes it back if nothing was written: a
hundred thousand calls that print nothing leave nothing behind. (Readers of `stdout` open it by its path each
time.)

Users make room with `rm -rf sandboxes/*`. If a spare sandbox was removed, even partly, it is replaced when
the next instance needs it; so is the directory of all sandboxes.
"""

import contextlib
import os

FOLDER = "sandboxes"
_STREAMS = ("stderr", "stdout")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Sandbox:
    """A directory with two open files."""

    __slots__ = ("path", "stderr", "stdout")

    def __init__(self, path: str) -> None:
        os.mkdir(path, 0o700)
        self.path = path
        self.stdout = os.open(f"{path}/stdout", _FLAGS, 0o600)
        self.stderr = os.open(f"{path}/stderr", _FLAGS, 0o600)

    def move(self, path: str) -> None:
        """Rename the directory."""
        os.rename(self.path, path)
        self.path = path

    def is_intact(self) -> bool:
        """Return whether both files still exist; takes one system call each."""
        return bool(os.fstat(self.stdout).st_nlink and os.fstat(self.stderr).st_nlink)

    def is_untouched(self) -> bool:
        """Return whether nothing was written to the sandbox."""
        return (
            os.fstat(self.stdout).st_size == 0
            and os.fstat(self.stderr).st_size == 0
            and sorted(os.listdir(self.path)) == list(_STREAMS)
        )

    def close(self) -> None:
        """Close the files; the directory remains."""
        os.close(self.stdout)
        os.close(self.stderr)

    def remove(self) -> None:
        """Close the files and remove the directory, which is untouched or was partly removed."""
        self.close()
        for name in _STREAMS:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


class SandboxPool:
    """Provides sandboxes, and takes untouched ones back.

    Args:
        folder: directory of the sandboxes.
        owner: name of the worker, for a unique name of its spare sandbox.
    """

    def __init__(self, folder: str, owner: str) -> None:
        self._folder = folder
        self._spare_path = f"{folder}/.{owner}"
        self._spare: Sandbox | None = None

    def acquire(self, instance_id: str) -> Sandbox:
        """Return an empty sandbox for an instance.

        Raises:
            OSError: there is no room, or the instance has a sandbox already.
        """
        path = f"{self._folder}/{instance_id}"
        sandbox = self._refill()
        try:
            sandbox.move(path)
        except FileNotFoundError:  # it was removed at this very moment
            sandbox = self._refill()
            sandbox.move(path)
        self._spare = None
        return sandbox

    def release(self, sandbox: Sandbox) -> bool:
        """Take a sandbox back.

        Returns:
            Whether something was written to it, so that it remains; False if it was removed.
        """
        with contextlib.suppress(OSError):
            if self._spare is None and sandbox.is_untouched():
                sandbox.move(self._spare_path)
                self._spare = sandbox
                return False
        sandbox.close()
        return os.path.isdir(sandbox.path)

    def refill(self) -> None:
        """Create the spare sandbox, if there is none.

        Raises:
            OSError: there is no room.
        """
        self._refill()

    def _refill(self) -> Sandbox:
        """Return the spare sandbox; a new one if it was removed, even partly."""
        if self._spare is not None and not self._spare.is_intact():
            self._spare.remove()
            self._spare = None
        if self._spare is None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            if os.path.lexists(self._spare_path):  # the rest of a partly removed one
                _remove_tree(self._spare_path)
            self._spare = Sandbox(self._spare_path)
        return self._spare

    def close(self) -> None:
        """Remove the spare sandbox, which belongs to no instance."""
        if self._spare is not None:
            self._spare.remove()
            self._spare = None


def _remove_tree(path: str) -> None:
    import shutil  # a tenth of the agent's start

    shutil.rmtree(path)


def remove_if_untouched(path: str) -> bool:
    """Remove the sandbox of a dead worker's task if nothing was written to it; return whether it remains."""
    try:
        if sorted(os.listdir(path)) != list(_STREAMS):
            return True
        if any(os.stat(f"{path}/{name}").st_size for name in _STREAMS):
            return True
        for name in _STREAMS:
            os.unlink(f"{path}/{name}")
        os.rmdir(path)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def write_stderr(path: str, text: str) -> bool:
    """Write to the stderr of an instance that has no sandbox yet; return whether that was possible."""
    try:
        sandbox = Sandbox(path)
        os.write(sandbox.stderr, text.encode("utf-8", "replace"))
        sandbox.close()
    except OSError:
        return False
    return True
