"""Audio tokenizers: sound to tokens and back, their losses, data and training."""
