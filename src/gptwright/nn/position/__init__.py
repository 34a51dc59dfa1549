"""Positions: how tokens know where they stand. One file each; the listing is the menu."""
