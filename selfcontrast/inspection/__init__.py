"""Whether checkpoints can be opened, told from names, first bytes and headers: nothing is loaded, and it takes a second."""
