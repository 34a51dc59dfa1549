"""Scalings of rotary positions: how models read further than trained. One file each; the listing is the menu."""
