"""Families of models in the Hugging Face world. One file each; the listing is what can be read and written."""
