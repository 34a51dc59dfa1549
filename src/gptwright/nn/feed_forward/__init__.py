"""Feed-forward: what each token does by itself. One file each; the listing is the menu."""
