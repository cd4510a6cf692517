"""Helpers with pytorch-grad-cam's names."""
