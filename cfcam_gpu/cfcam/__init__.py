"""The published method, step by step: clustering, filtering, weighting; and its plain reference."""
