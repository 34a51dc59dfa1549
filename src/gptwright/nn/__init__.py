"""Components, one file each; the listing of each folder is the menu of its slot."""
