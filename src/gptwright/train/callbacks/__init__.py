"""What may happen beside a run: the files of this folder are the menu of the slot `callback`."""
