"""The files that go into an exported folder: a GPT of ours for whoever has torch and transformers alone."""
