"""Other people's models: their words, and in time their files."""
