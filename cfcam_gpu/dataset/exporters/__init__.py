"""The formats of `cfcam export`, a file for each kind; `dataset.store.export` has the table."""
