"""Text to token ids and back: byte, char and bpe, one file each in ``kinds``."""
