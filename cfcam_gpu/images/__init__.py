"""Images in and out: decoding, preprocessing, masks, overlays, contact sheets. Imports no PyTorch."""
