"""Norms: how vectors are brought to one scale. One file each; the listing is the menu."""
