"""Text to token ids and back: byte, char, bpe, and those of other models; one file each in ``kinds``."""
