"""Attention: how tokens see each other. One file each; the listing is the menu."""
