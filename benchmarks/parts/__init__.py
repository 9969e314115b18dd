"""Each part of the program against its floor and its rivals."""
