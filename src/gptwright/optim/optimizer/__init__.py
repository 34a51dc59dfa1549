"""The optimizers: the files of this folder are the menu of the slot `optim`."""
