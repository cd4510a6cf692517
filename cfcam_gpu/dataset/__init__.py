"""Datasets: finding the inputs and decoding them."""
