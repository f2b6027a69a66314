"""The directory of an instance, with its stdout and stderr.

Lives here: making one, and taking back those that nothing was written to.
Not here: what runs in it (`worker.runner`), who reads it (the scheduler's log pages).

Making a directory and two files costs a third of a millisecond on a common disk, renaming one a hundredth.
So a worker keeps an empty one in stock, gives it the instance's name, and takes it back untouched: a hundred
thousand calls that print nothing leave nothing behind. (Who reads `stdout` opens it by its path each time.)

People make room with `rm -rf sandboxes/*`. A sandbox in stock that was removed, in any part, is replaced
when the next instance needs it; so is the folder of all sandboxes.
"""

import contextlib
import os

FOLDER = "sandboxes"
_STREAMS = ("stderr", "stdout")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Sandbox:
    """One directory with two open files."""

    __slots__ = ("path", "stderr", "stdout")

    def __init__(self, path: str) -> None:
        os.mkdir(path, 0o700)
        self.path = path
        self.stdout = os.open(f"{path}/stdout", _FLAGS, 0o600)
        self.stderr = os.open(f"{path}/stderr", _FLAGS, 0o600)

    def move(self, path: str) -> None:
        """Give the directory another name."""
        os.rename(self.path, path)
        self.path = path

    def is_intact(self) -> bool:
        """Return whether both files are still in a directory; one call to the kernel each."""
        return bool(os.fstat(self.stdout).st_nlink and os.fstat(self.stderr).st_nlink)

    def is_untouched(self) -> bool:
        """Tell whether nothing was written to it."""
        return (
            os.fstat(self.stdout).st_size == 0
            and os.fstat(self.stderr).st_size == 0
            and sorted(os.listdir(self.path)) == list(_STREAMS)
        )

    def close(self) -> None:
        """Close the files; the directory stays."""
        os.close(self.stdout)
        os.close(self.stderr)

    def remove(self) -> None:
        """Close the files and remove the directory, which is untouched or was removed in part."""
        self.close()
        for name in _STREAMS:
            with contextlib.suppress(OSError):
                os.unlink(f"{self.path}/{name}")
        with contextlib.suppress(OSError):
            os.rmdir(self.path)


class SandboxPool:
    """Gives sandboxes out and takes them back.

    Args:
        folder: where they lie.
        owner: names the one in stock, so that workers do not meet.
    """

    def __init__(self, folder: str, owner: str) -> None:
        self._folder = folder
        self._spare_path = f"{folder}/.{owner}"
        self._spare: Sandbox | None = None

    def take(self, instance_id: str) -> Sandbox:
        """Return an empty sandbox for this instance.

        Raises:
            OSError: there is no room, or it has one already.
        """
        path = f"{self._folder}/{instance_id}"
        sandbox = self._refill()
        try:
            sandbox.move(path)
        except FileNotFoundError:  # it was removed this very moment
            sandbox = self._refill()
            sandbox.move(path)
        self._spare = None
        return sandbox

    def give_back(self, sandbox: Sandbox) -> bool:
        """Take a sandbox back.

        Returns:
            Whether something was written to it, and it therefore stays where it is; False if it was removed.
        """
        with contextlib.suppress(OSError):
            if self._spare is None and sandbox.is_untouched():
                sandbox.move(self._spare_path)
                self._spare = sandbox
                return False
        sandbox.close()
        return os.path.isdir(sandbox.path)

    def refill(self) -> None:
        """Have one in stock.

        Raises:
            OSError: there is no room.
        """
        self._refill()

    def _refill(self) -> Sandbox:
        """Return the one in stock; a new one if it was removed, in whole or in part."""
        if self._spare is not None and not self._spare.is_intact():
            self._spare.remove()
            self._spare = None
        if self._spare is None:
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._folder, 0o700)
            if os.path.lexists(self._spare_path):  # the rest of one that was removed in part
                _remove_tree(self._spare_path)
            self._spare = Sandbox(self._spare_path)
        return self._spare

    def close(self) -> None:
        """Leave nothing behind that no instance owns."""
        if self._spare is not None:
            self._spare.remove()
            self._spare = None


def _remove_tree(path: str) -> None:
    import shutil  # a tenth of the agent's start

    shutil.rmtree(path)


def remove_if_untouched(path: str) -> bool:
    """Remove the sandbox of a worker that is gone, if nothing was written to it; return whether it stays."""
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
