"""The model: settings, blocks, the GPT itself, initialisation and counting."""
