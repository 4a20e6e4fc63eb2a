"""Metrics, protocols, tables and plots: the judge of tokenizers of images and sound."""
