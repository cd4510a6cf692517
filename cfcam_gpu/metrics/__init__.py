"""Metrics of heatmaps: `table.METRICS` lists them, `case.Case` is what each gets."""
