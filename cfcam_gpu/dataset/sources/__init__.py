"""Where samples come from: folders of images, manifests, WebDataset shards, Hugging Face data sets."""
