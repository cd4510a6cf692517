"""A batch whose rows are under way: what reading them raises belongs to that batch alone, whoever reads them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cfcam_gpu.dataset.store.schema import Row
from cfcam_gpu.errors import CFCAMError, OutOfMemory


@dataclass
class BegunBatch:
    """Images of one forward pass that was begun.

    Attributes:
        read: waits for their rows; called once.
        again: explains them once more, in smaller batches, after reading raised an error; it raises that error where
            there is no smaller batch.

    Example:
        >>> batch = BegunBatch(lambda: [{"status": "ok"}], again=list)
        >>> batch.finish()
        >>> batch.rows()
        [{'status': 'ok'}]
    """

    read: Callable[[], list[Row]]
    again: Callable[[OutOfMemory], list[Row]]
    _outcome: list[Row] | CFCAMError | None = None

    def finish(self) -> None:
        """Waits for the rows; a CFCAMError is kept for the call of `rows`."""
        if self._outcome is None:
            try:
                self._outcome = self._read()
            except CFCAMError as error:
                self._outcome = error

    def rows(self) -> list[Row]:
        """The rows, in the order of the images.

        Raises:
            CFCAMError: an error that concerns the whole run.
        """
        self.finish()
        assert self._outcome is not None
        if isinstance(self._outcome, CFCAMError):
            raise self._outcome
        return self._outcome

    def _read(self) -> list[Row]:
        try:
            return self.read()
        except OutOfMemory as error:
            return self.again(error)
