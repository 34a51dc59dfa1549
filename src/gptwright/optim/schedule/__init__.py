"""The learning-rate schedules: the files of this folder are the menu of the slot `schedule`."""
