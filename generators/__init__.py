"""Generators: models over tokens, how they are sampled, trained and packed into pipelines."""
