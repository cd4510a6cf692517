"""Where samples come from: folders, manifests, WebDataset shards, Hugging Face datasets."""
