"""Tokenizers, one file each; the listing of this folder is the menu of the slot."""
