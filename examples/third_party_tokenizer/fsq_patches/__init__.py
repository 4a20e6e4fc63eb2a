"""FSQ patches: a small image tokenizer from outside of Tessera."""
