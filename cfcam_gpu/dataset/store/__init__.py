"""The output folder of a run: plan, parts, locks, fingerprint, results, export."""
