"""Text sources, prepared token shards and the stateless sampler; blind to tokenizers and models."""
