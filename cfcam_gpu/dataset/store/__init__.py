"""The output folder of a run: result rows, plan, parts, locks, fingerprint; reading and exporting results."""
